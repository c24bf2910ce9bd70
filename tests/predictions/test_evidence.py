"""Beliefs, their fusion, and weights by rank of uncertainty."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.predictions.evidence import (
    asymptotic_weights,
    beliefs,
    believed_labels,
    fused_beliefs,
    uncertainty_ranks,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_one_voxel_by_hand():
    # softplus of the logits gives the evidence 3 and 1
    z = torch.tensor([math.log(math.e**3 - 1), math.log(math.e - 1)], dtype=torch.float64).view(1, 2, 1, 1)
    belief, uncertainty = beliefs(z)
    assert belief.flatten().tolist() == pytest.approx([3 / 6, 1 / 6]) and uncertainty.item() == pytest.approx(2 / 6)
    fused, left = fused_beliefs((belief, uncertainty), (belief, uncertainty))
    raw = [0.25 + 2 / 3 * 0.5 / 3, 1 / 36 + 2 / 3 / 18, 1 / 9]
    assert [*fused.flatten().tolist(), left.item()] == pytest.approx([x / sum(raw) for x in raw])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dempster", [False, True])
def test_beliefs_and_uncertainty_sum_up_to_1_and_labels_are_those_of_the_logits(activation, dempster):
    z, axis = draw(2, 3, 4, 5), 1 if activation == "softmax" else 2
    own = beliefs(z, activation)
    fused = fused_beliefs(own, beliefs(draw(2, 3, 4, 5, seed=1), activation), axis, dempster)
    for belief, uncertainty in (own, fused):
        total = belief.sum(axis, keepdim=True) + uncertainty
        torch.testing.assert_close(total, torch.ones_like(total))
    expected = z.argmax(1, keepdim=True) if activation == "softmax" else z > 0
    assert torch.equal(believed_labels(own[0], activation), expected)


def test_two_that_agree_are_surer_together_by_dempsters_rule():
    z = draw(1, 3, 4, 4)
    belief, uncertainty = beliefs(z)
    fused, left = fused_beliefs((belief, uncertainty), (belief, uncertainty), dempster=True)
    assert (left < uncertainty).all() and torch.equal(fused.argmax(1), belief.argmax(1))


def test_ranks_begin_with_the_most_certain_voxel_of_each_sample():
    u = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.5, 0.4]]).view(2, 1, 1, 3)
    assert uncertainty_ranks(u).flatten().tolist() == [3, 1, 2, 2, 3, 1]


def test_certain_voxels_weigh_more_first_and_less_in_the_end():
    u = torch.rand(1, 1, 10, 10)
    certain, uncertain = u.argmin(), u.argmax()
    early, middle, late = (asymptotic_weights(u, q, 0.5).flatten() for q in (0.0, 0.5, 1.0))
    assert early[certain] > 1.3 > 0.7 > early[uncertain]
    assert late[certain] < 0.7 < 1.3 < late[uncertain]
    assert torch.equal(middle, torch.ones(100)) and torch.equal(asymptotic_weights(u, 0.1, 0.0), torch.ones_like(u))


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_padding_has_no_rank_among_the_voxels_of_the_image(progress):
    u, mask = torch.rand(2, 3, 8, 9), torch.ones(2, 1, 8, 9, dtype=torch.bool)
    u[1, :, :, 4:], mask[1, :, :, 4:] = 0.0, False  # as certain as can be
    weights = asymptotic_weights(u, progress, 0.9, mask)
    torch.testing.assert_close(weights[1:, :, :, :4], asymptotic_weights(u[1:, :, :, :4], progress, 0.9))
    torch.testing.assert_close(weights[:1], asymptotic_weights(u[:1], progress, 0.9))
    assert weights[1, :, :, 4:].abs().max() == 0
    assert weights[1, :, :, :4].flatten(1).mean(1).tolist() == pytest.approx([1.0] * 3, abs=0.9 / 32)
    assert not asymptotic_weights(u, progress, 0.9, torch.zeros_like(mask)).any()
