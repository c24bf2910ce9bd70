"""Tests of `nnunet_ssl.losses.mixed_pseudo_labels`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from nnunet_ssl.losses.mixed_pseudo_labels import hard_mixture, mixed_probabilities, pseudo_dice, soft_cross_entropy


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def test_a_mixture_by_hand():
    first, second = logits_of(0.7, 0.2, 0.1).requires_grad_(), logits_of(0.1, 0.5, 0.4)
    mixed = mixed_probabilities(first, second, torch.tensor(0.25))
    assert mixed.flatten().tolist() == pytest.approx([0.25, 0.425, 0.325])
    assert hard_mixture(mixed).tolist() == [[[[1]]]] and not mixed.requires_grad
    assert hard_mixture(mixed_probabilities(first, second, torch.tensor(0.9))).item() == 0
    regions = mixed_probabilities(
        torch.zeros(1, 2, 1, 1), torch.tensor([[2.0, -2.0]])[..., None, None], torch.tensor(0.5), "sigmoid"
    )
    expected = (0.5 + 1 / (1 + math.exp(-2))) / 2
    assert regions.flatten().tolist() == pytest.approx([expected, 1 - expected])
    assert hard_mixture(regions, "sigmoid").flatten().tolist() == [True, False]
    with pytest.raises(ValueError, match="one shape"):
        mixed_probabilities(first, second[:, :2], torch.tensor(0.5))


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 4)])
@pytest.mark.parametrize("activation, squared", [("softmax", True), ("softmax", False), ("sigmoid", True)])
def test_pseudo_dice_is_that_of_the_voxels_in_the_mask(spatial, activation, squared):
    z = draw(2, 3, *spatial, dtype=torch.float64).requires_grad_()
    label = hard_mixture(
        mixed_probabilities(draw(2, 3, *spatial, seed=1, dtype=torch.float64), z, torch.tensor(0.5), activation),
        activation,
    )
    mask = draw(2, 1, *spatial, seed=2) > 0
    p = (z.softmax(1) if activation == "softmax" else z.sigmoid()).detach()
    y = torch.stack([label[:, 0] == c for c in range(3)], 1) if activation == "softmax" else label
    losses = []
    for c in range(3):
        (pc, yc) = p[:, c][mask[:, 0]], y[:, c][mask[:, 0]].double()
        bottom = (pc**2 + yc**2 if squared else pc + yc).sum()
        losses.append(1 - (2 * (pc * yc).sum() + 1e-5) / (bottom + 1e-5))
    found = pseudo_dice(z, label, activation, mask, squared)
    assert found.item() == pytest.approx(float(sum(losses)) / 3, rel=1e-6)
    (gradient,) = torch.autograd.grad(found, z)
    assert gradient.abs().max() > 0 and gradient.masked_select(~mask.expand_as(z)).abs().max() == 0


def test_soft_cross_entropy_by_hand():
    soft = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)
    z = logits_of(0.4, 0.6)
    assert soft_cross_entropy(z, soft).item() == pytest.approx(-0.25 * math.log(0.4) - 0.75 * math.log(0.6), rel=1e-6)
    twice = 1 / (1 + math.exp(0.6 - 0.4))  # softmax of the probabilities
    expected = -0.25 * math.log(twice) - 0.75 * math.log(1 - twice)
    assert soft_cross_entropy(z, soft, double_softmax=True).item() == pytest.approx(expected, rel=1e-6)
    region = soft_cross_entropy(torch.full((1, 1, 1, 1), math.log(3.0)), torch.full((1, 1, 1, 1), 0.5), "sigmoid")
    assert region.item() == pytest.approx(-0.5 * math.log(0.75) - 0.5 * math.log(0.25), rel=1e-6)


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_cross_entropy_has_its_gradient_and_leaves_out_what_does_not_count(spatial, activation):
    z = draw(2, 3, *spatial, dtype=torch.float64).requires_grad_()
    soft = mixed_probabilities(draw(2, 3, *spatial, seed=1, dtype=torch.float64), z, torch.tensor(0.3), activation)
    mask = draw(2, 1, *spatial, seed=2) > 0
    assert gradcheck(lambda x: soft_cross_entropy(x, soft, activation, mask), z)
    changed = torch.where(mask, z, 100 * z)
    assert soft_cross_entropy(changed, soft, activation, mask) == soft_cross_entropy(z, soft, activation, mask)
    nothing = soft_cross_entropy(z, soft, activation, torch.zeros_like(mask))
    assert nothing == 0 and torch.autograd.grad(nothing, z)[0].abs().max() == 0


def test_soft_labels_of_certain_predictions_stay_finite_in_half_precision():
    z = torch.tensor([60000.0, -60000.0]).half().view(1, 2, 1, 1)
    soft = mixed_probabilities(z, -z, torch.tensor(1.0))
    assert soft.dtype == torch.float32 and soft_cross_entropy(z, soft).item() == 0
    assert torch.isfinite(soft_cross_entropy(-z, soft))


def test_at_a_lower_head_soft_labels_are_averaged_and_hard_ones_are_the_nearest():
    soft = torch.zeros(1, 2, 2, 2)
    soft[0, 0, 0, 0], soft[0, 1] = 1, torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    z = logits_of(0.9, 0.1)
    assert soft_cross_entropy(z, soft).item() == pytest.approx(-0.25 * math.log(0.9) - 0.75 * math.log(0.1), rel=1e-6)
    label = hard_mixture(soft)
    nearest = label[:, :, 1:, 1:]  # nearest-exact takes the voxel after the center
    assert pseudo_dice(z, label) == pseudo_dice(z, nearest) != pseudo_dice(z, 1 - nearest)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        soft_cross_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="double_softmax"):
        soft_cross_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), "sigmoid", double_softmax=True)
