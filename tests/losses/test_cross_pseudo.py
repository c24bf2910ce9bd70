"""Tests of `nnunet_ssl.losses.cross_pseudo`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.cross_pseudo import cross_pseudo_losses, filtered_cross_entropy, pseudo_cross_entropy
from nnunet_ssl.predictions.ensemble_labels import NONE
from nnunet_ssl.predictions.hard_labels import hard_labels

LN3 = math.log(3)


def test_cross_entropy_by_hand():
    # two voxels with softmax (3/4, 1/4) and (1/2, 1/2)
    logits = torch.tensor([[[[LN3, 0.0]], [[0.0, 0.0]]]])
    label = torch.tensor([[[[1, 0]]]])
    assert pseudo_cross_entropy(logits, label).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    mask = torch.tensor([[[[True, False]]]])
    assert pseudo_cross_entropy(logits, label, mask=mask).item() == pytest.approx(math.log(4))
    assert pseudo_cross_entropy(logits, label, mask=torch.zeros_like(mask)).item() == 0


def test_binary_cross_entropy_of_regions_by_hand():
    # sigmoid(ln 3) = 3/4: label 1 costs ln(4/3), label 0 costs ln 4
    logits = torch.tensor([[[[LN3, LN3]], [[-LN3, 0.0]]]])
    label = torch.tensor([[[[True, False]], [[False, True]]]])
    expected = (math.log(4 / 3) + math.log(4) + math.log(4 / 3) + math.log(2)) / 4
    assert pseudo_cross_entropy(logits, label, "sigmoid").item() == pytest.approx(expected)
    mask = torch.tensor([[[[True, False]]]])
    assert pseudo_cross_entropy(logits, label, "sigmoid", mask).item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("spatial", [(5, 4), (3, 4, 2)])
def test_each_network_learns_the_other_and_gets_no_gradient_from_its_loss(activation, spatial):
    torch.manual_seed(0)
    first, second = (torch.randn(2, 3, *spatial, requires_grad=True) for _ in range(2))
    losses = cross_pseudo_losses(first, second, activation)
    assert torch.equal(losses[0], pseudo_cross_entropy(first, hard_labels(second, activation), activation))
    assert torch.equal(losses[1], pseudo_cross_entropy(second, hard_labels(first, activation), activation))
    (gradient,) = torch.autograd.grad(losses[0], first, retain_graph=True)
    assert gradient.abs().max() > 0
    assert torch.autograd.grad(losses[0], second, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses[1], first, allow_unused=True) == (None,)


def test_gradient_is_softmax_minus_label():
    torch.manual_seed(0)
    logits, label = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (1, 1, 2, 3))
    (gradient,) = torch.autograd.grad(pseudo_cross_entropy(logits, label), logits)
    expected = logits.softmax(1) - torch.nn.functional.one_hot(label[:, 0], 4).movedim(-1, 1)
    assert torch.allclose(gradient, expected / 6)


def test_half_precision_logits_do_not_overflow():
    logits = torch.full((1, 2, 300, 300), 40.0, dtype=torch.float16)
    logits[:, 1] = -40
    loss = pseudo_cross_entropy(logits, torch.ones(1, 1, 300, 300, dtype=torch.int64))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(80)


def test_what_does_not_fit_is_refused():
    logits = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="activation"):
        hard_labels(logits, "tanh")
    with pytest.raises(ValueError, match=r"label must have shape \(2, 1, 4, 4\)"):
        pseudo_cross_entropy(logits, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="mask must be bool"):
        pseudo_cross_entropy(logits, torch.zeros(2, 1, 4, 4), mask=torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="one shape"):
        cross_pseudo_losses(logits, logits[:1])


def test_cross_entropy_of_the_voxels_with_a_label():
    z = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]).log().T.reshape(1, 3, 1, 3).requires_grad_()
    labels = torch.tensor([1, NONE, 2]).view(1, 1, 1, 3)
    loss = filtered_cross_entropy(z, labels, NONE)
    assert loss.item() == pytest.approx(-(math.log(0.25) + math.log(0.4)) / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient[..., 1].abs().max() == 0 and gradient[..., 0].abs().max() > 0
    regions = torch.full((1, 2, 1, 3), math.log(3.0))
    of_regions = torch.tensor([[1, 0, NONE], [NONE, NONE, NONE]]).view(1, 2, 1, 3)
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert filtered_cross_entropy(regions, of_regions, NONE, "sigmoid").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_without_a_label_the_loss_and_its_gradient_are_zero(activation):
    z = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    labels = torch.full((2, 1 if activation == "softmax" else 3, 4, 4, 4), 9)
    loss = filtered_cross_entropy(z, labels, 9, activation)
    assert loss == 0 and torch.autograd.grad(loss, z)[0].abs().max() == 0
