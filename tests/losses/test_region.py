"""Cross entropy and Dice on a part of the voxels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1

from nnunet_ssl.losses.region import masked_cross_entropy, masked_dice_loss, one_hot, region_loss, split_ignored


def example(dims=2, channels=3, activation="softmax"):
    generator = torch.Generator().manual_seed(0)
    spatial = (4, 5, 3)[:dims]
    logits = torch.randn(2, channels, *spatial, generator=generator)
    if activation == "softmax":
        target = torch.randint(0, channels, (2, 1, *spatial), generator=generator)
    else:
        target = torch.rand(2, channels, *spatial, generator=generator) > 0.5
    return logits, target, torch.rand(2, 1, *spatial, generator=generator) > 0.4


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[0.0, 9.0], [math.log(3), -9.0]]])  # class 1 with 3/4; the second voxel does not count
    target, mask = torch.tensor([[[1, 1]]]), torch.tensor([[[True, False]]])
    assert float(masked_cross_entropy(logits, target, mask)) == pytest.approx(-math.log(0.75), rel=1e-6)
    assert float(masked_cross_entropy(logits, target, torch.zeros_like(mask))) == 0
    regions = torch.tensor([[[True, False], [False, False]]])
    by_hand = (-math.log(0.5) - math.log(0.25)) / 2
    assert float(masked_cross_entropy(logits, regions, mask, "sigmoid")) == pytest.approx(by_hand, rel=1e-6)


def test_dice_by_hand():
    logits = torch.log(torch.tensor([[[0.75, 0.5], [0.25, 0.5]]]))
    target, mask = torch.tensor([[[0, 1]]]), torch.tensor([[[True, False]]])
    first = 1 - 2 * 0.75 / 1.75  # class 0; class 1 has intersection 0 and dice 0
    assert float(masked_dice_loss(logits, target, mask, smooth=0.0)) == pytest.approx((first + 1) / 2)
    assert float(masked_dice_loss(logits, target, mask, smooth=0.0, background=False)) == pytest.approx(1)
    squared = 1 - 2 * 0.75 / (0.75**2 + 1)
    assert float(masked_dice_loss(logits, target, mask, smooth=0.0, squared=True)) == pytest.approx((squared + 1) / 2)
    assert float(masked_dice_loss(logits, target, mask & False)) == 0


def test_weights_by_hand():
    logits = torch.log(torch.tensor([[[0.75, 0.5], [0.25, 0.5]]]))
    target, weight = torch.tensor([[[0, 1]]]), torch.tensor([[[0.1, 0.3]]])
    by_hand = (-0.1 * math.log(0.75) - 0.3 * math.log(0.5)) / 0.4
    assert float(masked_cross_entropy(logits, target, weight)) == pytest.approx(by_hand, rel=1e-6)
    first = 1 - 2 * 0.1 * 0.75 / (0.1 * 1.75 + 0.3 * 0.5)
    second = 1 - 2 * 0.3 * 0.5 / (0.1 * 0.25 + 0.3 * 1.5)
    assert float(masked_dice_loss(logits, target, weight, smooth=0.0)) == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("batch", [False, True])
def test_dice_is_nnunets_plus_one(dims, activation, batch):
    logits, target, mask = example(dims, activation=activation)
    nonlinearity = softmax_helper_dim1 if activation == "softmax" else torch.sigmoid
    nnunet = MemoryEfficientSoftDiceLoss(nonlinearity, batch, activation == "sigmoid", 1e-5, ddp=False)
    ours = masked_dice_loss(logits, target, mask, activation, batch=batch, background=False)
    assert float(ours) == pytest.approx(1 + float(nnunet(logits, target, loss_mask=mask)), abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients_stay_inside_the_mask(dims, activation):
    logits, target, mask = example(dims, activation=activation)
    logits.requires_grad_()
    region_loss(logits, target, mask, activation).backward()
    assert logits.grad[(~mask).expand_as(logits)].abs().max() == 0
    assert logits.grad[mask.expand_as(logits)].abs().min() > 0
    torch.autograd.gradcheck(
        lambda x: region_loss(x, target, mask, activation), logits.detach().double().requires_grad_()
    )


def test_parts_and_whole():
    logits, target, _ = example(3)
    everywhere = torch.ones(1, 1, *logits.shape[2:], dtype=torch.bool)
    assert torch.equal(region_loss(logits, target, everywhere), region_loss(logits, target))
    assert float(masked_cross_entropy(logits, target)) == pytest.approx(float(F.cross_entropy(logits, target[:, 0])))


def test_half_precision_is_lifted():
    logits, target, mask = example()
    low = region_loss(logits.half(), target, mask)
    assert low.dtype == torch.float32 and float(low) == pytest.approx(
        float(region_loss(logits.half().float(), target, mask))
    )


def test_ignored_voxels():
    target = torch.tensor([[[0, 2, 3]]])
    assert split_ignored(target, None, False) == (target, None)
    classes, annotated = split_ignored(target, 3, False)
    assert classes.tolist() == [[[0, 2, 0]]] and annotated.tolist() == [[[True, True, False]]]
    regions = torch.tensor([[[True, False, False], [False, False, True]]])  # the last channel says what is ignored
    kept, annotated = split_ignored(regions, 3, True)
    assert kept.tolist() == [[[True, False, False]]] and annotated.tolist() == [[[True, True, False]]]


def test_shapes_are_checked():
    logits, target, mask = example()
    assert one_hot(target, 3).sum(1).eq(1).all()
    with pytest.raises(ValueError, match="target must have shape"):
        region_loss(logits, target[:, 0], mask)
    with pytest.raises(ValueError, match="mask must have shape"):
        region_loss(logits, target, mask[:, 0])
