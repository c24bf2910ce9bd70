"""Tests of `nnunet_ssl.dataloading.augmentation`."""

from __future__ import annotations

import pytest
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from nnunet_ssl.dataloading.augmentation import spatial_changed


def test_only_spatial_transforms_change_and_the_originals_do_not():
    spatial, noise = SpatialTransform((8, 8), 0, False, p_rotation=0.2), GaussianNoiseTransform()
    changed, other = spatial_changed([spatial, noise], p_rotation=0.0)
    assert other is noise and (changed.p_rotation, spatial.p_rotation) == (0, 0.2)
    with pytest.raises(ValueError, match="no setting 'rotation_probability'"):
        spatial_changed([spatial], rotation_probability=0)
