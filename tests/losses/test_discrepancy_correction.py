"""Corrections where two networks disagree, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.discrepancy_correction import correction_loss, doubt_loss

P = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])  # three voxels, two classes
LOGITS = P.log().T.reshape(1, 2, 1, 3)
TARGET = torch.tensor([0, 0, 1]).view(1, 1, 1, 3)
DIFFER = torch.tensor([False, True, True]).view(1, 1, 1, 3)
WEIGHTS = torch.tensor([1.0, 1.0, 0.5]).view(1, 1, 1, 3)


def test_the_squared_error_counts_where_the_networks_differ():
    expected = (1.0 * 0.7**2 + 0.5 * 0.6**2) / 2
    assert correction_loss(LOGITS, TARGET, DIFFER, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_doubt_counts_where_this_network_is_wrong_as_well():
    target = torch.tensor([1, 1, 1]).view(1, 1, 1, 3)  # wrong at voxels 0 and 2, of which the networks differ at 2
    expected = 0.5 * -(math.log(0.6) + math.log(0.4)) / 2
    assert doubt_loss(LOGITS, target, DIFFER, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_doubt_is_smallest_for_a_network_that_does_not_know():
    unsure, sure = torch.zeros(1, 2, 1, 1), torch.tensor([4.0, -4.0]).view(1, 2, 1, 1)
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    target = everywhere.long()
    losses = [doubt_loss(z, target, everywhere, torch.ones(1, 1, 1, 1)).item() for z in (unsure, sure)]
    assert losses[0] == pytest.approx(math.log(2)) and losses[0] < losses[1]


@pytest.mark.parametrize("loss", [correction_loss, doubt_loss])
def test_regions_count_one_by_one(loss):
    z = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    target = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    first_only = torch.tensor([True, False]).view(1, 2, 1, 1)
    value = loss(z, target, first_only, torch.ones(1, 1, 1, 1), "sigmoid").item()
    p = 1 / (1 + math.exp(-2))
    expected = p**2 if loss is correction_loss else -(math.log(p) + math.log(1 - p)) / 2
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [correction_loss, doubt_loss])
def test_without_disagreement_there_is_no_loss_and_no_gradient(loss):
    z = LOGITS.clone().requires_grad_()
    value = loss(z, TARGET, torch.zeros_like(DIFFER), WEIGHTS)
    assert value.item() == 0 and torch.autograd.grad(value, z)[0].abs().max() == 0
