"""Which voxels of a labeled patch lie inside the image.

nnU-Net marks padding (of patches, of rotation and scaling, and what is empty around an object, where the label is 0) with -1 in the
segmentation and turns it into background after augmentation. For pseudo labels and regularizers that is not an image; here it is
noted down before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from nnunet_ssl.dataloading.recorder import Recorder

PADDING = -1  # nnU-Net's mark


class RecordInside(Recorder):
    """Notes down where the segmentation is not padding; data and random numbers stay as they are."""

    key = "labeled_inside"

    def record(self, segmentation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return segmentation, segmentation[:1] != PADDING


def recording_inside(transforms: Sequence[BasicTransform], padding_label: int) -> list[BasicTransform]:
    """nnU-Net's training transforms that also note down what lies inside the image.

    Args:
        transforms: in nnU-Net's order.
        padding_label: what padding becomes; nnU-Net's is 0, the background.

    Raises:
        NotImplementedError: there is no transform that replaces the mark of padding.
    """
    changed: list[BasicTransform] = []
    for transform in transforms:
        if isinstance(transform, RemoveLabelTansform) and transform.label_value == PADDING:
            transform = RemoveLabelTansform(PADDING, padding_label, transform.segmentation_channels)
            changed.append(RecordInside())
        changed.append(transform)
    if len(changed) == len(transforms):
        raise NotImplementedError(
            f"The training transforms have no RemoveLabelTansform({PADDING}, ...), as nnU-Net's have, so that the padding of "
            "a patch cannot be told from the image."
        )
    return changed
