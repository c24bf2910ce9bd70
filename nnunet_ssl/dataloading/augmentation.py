"""Changes to the geometry of nnU-Net's augmentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform


def spatial_changed(transforms: Sequence[BasicTransform], **settings: float) -> list[BasicTransform]:
    """The transforms, with other settings of `SpatialTransform`, such as `p_rotation=0.0`; the originals stay as they are.

    Raises:
        ValueError: `SpatialTransform` has no such setting.
    """
    changed = []
    for transform in transforms:
        if isinstance(transform, SpatialTransform):
            transform = copy.copy(transform)
            for name, value in settings.items():
                if not hasattr(transform, name):
                    raise ValueError(f"SpatialTransform has no setting {name!r}")
                setattr(transform, name, value)
        changed.append(transform)
    return changed
