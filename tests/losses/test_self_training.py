"""Losses on hard labels that count where their source was sure."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.region import masked_cross_entropy, masked_dice_loss
from nnunet_ssl.losses.self_training import (
    confident_cross_entropy,
    confident_dice_loss,
    present_dice_loss,
    self_training_loss,
)

LN3 = math.log(3)


def test_cross_entropy_by_hand_has_unsure_voxels_in_its_denominator_and_padding_not():
    # softmax (3/4, 1/4), (1/2, 1/2), (1/4, 3/4) and padding
    logits = torch.tensor([[[[LN3, 0.0, 0.0, 5.0]], [[0.0, 0.0, LN3, 0.0]]]])
    labels = torch.tensor([[[[1, 0, 1, 1]]]])
    sure = torch.tensor([[[[True, False, True, True]]]])
    inside = torch.tensor([[[[True, True, True, False]]]])
    found = confident_cross_entropy(logits, labels, sure, inside)
    assert found.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 3)


def test_cross_entropy_of_regions_by_hand():
    logits = torch.tensor([[[[LN3, LN3]], [[-LN3, 0.0]]]])
    labels = torch.tensor([[[[True, False]], [[False, True]]]])
    sure = torch.tensor([[[[True, True]], [[True, False]]]])
    inside = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    found = confident_cross_entropy(logits, labels, sure, inside, "sigmoid")
    assert found.item() == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(4 / 3)) / 4)


def test_dice_is_over_the_classes_that_sure_labels_have():
    logits = torch.zeros(2, 4, 1, 4)
    logits[:, 1] = 30  # class 1 everywhere
    labels = torch.tensor([[[[1, 1, 2, 3]]], [[[1, 1, 0, 0]]]])
    sure = labels != 3
    inside = torch.ones_like(sure)
    # class 1: 2*4 / (7 + 4), class 2: 0, class 3: nowhere sure
    expected = 1 - (8 / 11 + 0) / 2
    assert present_dice_loss(logits, labels, sure, inside).item() == pytest.approx(expected, abs=1e-5)
    inside[:, :, :, 2:] = False  # now class 1 is all there is, and found
    assert present_dice_loss(logits, labels, sure, inside).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_with_everything_sure_and_present_they_are_the_masked_losses(activation, spatial):
    torch.manual_seed(0)
    logits = torch.randn(3, 3, *spatial, requires_grad=True)
    inside = torch.rand(3, 1, *spatial) > 0.2
    classes, regions = torch.randint(0, 3, (3, 1, *spatial)), torch.rand(3, 3, *spatial) > 0.5
    labels = classes if activation == "softmax" else regions
    sure = torch.ones_like(labels, dtype=torch.bool)
    arguments = labels, sure, inside, activation
    assert torch.allclose(
        confident_cross_entropy(logits, *arguments), masked_cross_entropy(logits, labels, inside, activation)
    )
    dice = masked_dice_loss(logits, labels, inside, activation, batch=True, background=False)
    assert torch.allclose(present_dice_loss(logits, *arguments), dice)
    total = self_training_loss(logits, *arguments)
    assert torch.allclose(total, confident_cross_entropy(logits, *arguments) + dice)
    outside = torch.autograd.grad(total, logits)[0][(~inside).expand_as(logits)]
    assert outside.abs().max() == 0


def test_nothing_sure_is_a_loss_of_zero_with_a_gradient_of_zero():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 1, 4, 4))
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    for mask, inside in ((nothing, ~nothing), (~nothing, nothing)):
        loss = self_training_loss(logits, labels, mask, inside)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_maps_are_resized_to_the_scale_and_wrong_shapes_refused():
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 1, 4, 4)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    sure, inside = labels > 0, labels < 2
    small = [m[..., ::2, ::2] for m in (labels, sure, inside)]
    assert torch.equal(self_training_loss(logits, labels, sure, inside), self_training_loss(logits, *small))
    with pytest.raises(ValueError, match="shape"):
        present_dice_loss(logits, labels, sure, inside)


def test_dice_of_all_classes_by_hand():
    logits = torch.zeros(1, 2, 1, 4)
    logits[:, 1, :, :3] = 60  # class 1, and half and half in the last voxel
    labels = torch.tensor([[[[1, 1, 0, 1]]]])
    sure = torch.tensor([[[[True, True, True, False]]]])
    inside = torch.tensor([[[[True, False, True, True]]]])
    # voxels 0 and 2 count: class 0 is at 2 and not found, class 1 is at 0 and predicted in both
    expected = ((1 - 1e-5 / (1 + 1e-5)) + (1 - (2 + 1e-5) / (2 + 1 + 1e-5))) / 2
    assert confident_dice_loss(logits, labels, sure, inside).item() == pytest.approx(expected, abs=1e-5)


def test_forms_of_the_loss_are_its_parts():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 1, 6, 5))
    sure, inside = torch.rand(2, 1, 6, 5) > 0.3, torch.rand(2, 1, 6, 5) > 0.2
    maps = labels, sure, inside
    parts = {"cross_entropy": confident_cross_entropy, "dice": confident_dice_loss}
    for form, function in parts.items():
        assert torch.equal(self_training_loss(logits, *maps, form=form), function(logits, *maps))
    both = confident_cross_entropy(logits, *maps) + present_dice_loss(logits, *maps)
    assert torch.equal(self_training_loss(logits, *maps, form="both"), both)
    with pytest.raises(ValueError, match="form must be"):
        self_training_loss(logits, *maps, form="focal")
