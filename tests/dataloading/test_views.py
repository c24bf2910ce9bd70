"""The strong view of SemiSupervised: nnU-Net's intensities, then rectangles of one value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform

from nnunet_ssl.dataloading.views import split_transforms, with_blank_rectangles


class AddOne(ImageOnlyTransform):
    def _apply_to_image(self, img, **params):
        return img + 1


@pytest.mark.parametrize("patch", [(48, 48), (2, 30, 40), (1, 12, 15)], ids=str)
def test_rectangles_cover_a_part_and_leave_the_rest(patch):
    np.random.seed(0)
    transforms = ComposeTransforms(with_blank_rectangles([AddOne()], patch, 1.0))
    shares = []
    for seed in range(20):
        image = torch.randn(2, *patch, generator=torch.Generator().manual_seed(seed))
        shown = transforms(image=image.clone())["image"]
        hidden = shown != image + 1
        shares.append(float(hidden.float().mean()))
        assert not hidden.all()
    # 1 to 4 boxes of at most a third of each axis (at least a voxel)
    largest = np.prod([max(1, p // 3 - 1) / p for p in patch])
    assert np.mean(shares) > 0 and max(shares) <= 4 * largest + 1e-6


def test_they_are_as_frequent_as_asked_for_and_move_nothing():
    np.random.seed(1)
    transforms = ComposeTransforms(with_blank_rectangles([], (32, 32), 0.25))
    image = torch.randn(1, 32, 32)
    changed = np.mean([not torch.equal(transforms(image=image.clone())["image"], image) for _ in range(400)])
    assert 0.18 < changed < 0.32
    assert split_transforms(transforms)[0] == []


def test_no_channel_shows_what_another_hides():
    np.random.seed(2)
    transforms = ComposeTransforms(with_blank_rectangles([AddOne()], (24, 24), 1.0))
    image = torch.randn(4, 24, 24, generator=torch.Generator().manual_seed(0))
    hidden = transforms(image=image.clone())["image"] != image + 1
    assert hidden.any() and (hidden == hidden[:1]).all()


def test_rectangles_stay_inside_the_non_zero_mask():
    """Plans that normalize inside the mask: nnU-Net sets the outside to 0 as the last of its intensity transforms."""
    np.random.seed(3)
    transforms = ComposeTransforms(with_blank_rectangles([AddOne(), MaskImageTransform([0])], (24, 24), 1.0))
    image, segmentation = torch.full((1, 24, 24), 5.0), torch.zeros(1, 24, 24)
    image[:, :12] = 0
    segmentation[:, :12] = -1
    for _ in range(20):
        shown = transforms(image=image.clone(), segmentation=segmentation)["image"]
        assert (shown[:, :12] == 0).all() and (shown[:, 12:] > 0).all()
