"""Tests of `nnunet_ssl.dataloading.inside`."""

from __future__ import annotations

import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from nnunet_ssl.dataloading.inside import recording_inside


def test_padding_is_noted_down_before_it_becomes_background():
    segmentation = torch.tensor([[[-1, 0, 2], [1, -1, 3]]], dtype=torch.int16)
    for label in (0, 3):
        transforms = recording_inside([RemoveLabelTansform(-1, 0)], label)
        for patch in (segmentation, segmentation.flip(-1)):
            found = ComposeTransforms(transforms)(image=torch.zeros(1, 2, 3), segmentation=patch.clone())[
                "segmentation"
            ]
            assert torch.equal(found, torch.where(patch == -1, label, patch))
        inside = transforms[0].pop()
        assert torch.equal(inside, torch.stack([segmentation != -1, segmentation.flip(-1) != -1]))
    with pytest.raises(NotImplementedError, match="padding"):
        recording_inside([RemoveLabelTansform(5, 0)], 0)
