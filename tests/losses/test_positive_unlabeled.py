"""Tests of `nnunet_ssl.losses.positive_unlabeled`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.positive_unlabeled import (
    class_shares,
    class_thresholds,
    estimate_mixture,
    marginal_loss,
    ruled_out,
    sample_voxels,
)


def column(*values):
    """Probabilities of two classes at voxels of one row: `(1, 2, V)`, the given ones those of class 1."""
    p = torch.tensor(values)
    return torch.stack((1 - p, p))[None]


def test_shares_count_annotated_voxels_only():
    target = torch.tensor([[[0, 1, 1, 2]], [[2, 2, 0, 0]]])
    mask = torch.tensor([[[True, True, True, False]], [[True, False, False, False]]])
    assert class_shares(target, 4, mask).tolist() == [0.25, 0.5, 0.25, 0.0]
    assert class_shares(target, 3, torch.zeros_like(mask)).tolist() == [0, 0, 0]


def test_one_step_of_the_mixture_by_hand():
    # prior (1/2, 1/2): the posterior is the probability itself, so the first step gives its mean
    p, mask = column(0.9, 0.3, 0.6, 0.1), torch.tensor([[[True, True, True, False]]])
    mixture = estimate_mixture(p, torch.tensor([0.5, 0.5]), mask, max_iterations=1)
    torch.testing.assert_close(mixture, torch.tensor([0.4, 0.6], dtype=torch.float64), rtol=1e-6, atol=0)
    # second step: alpha / g = (0.8, 1.2)
    expected = sum(1.2 * q / (1.2 * q + 0.8 * (1 - q)) for q in (0.9, 0.3, 0.6)) / 3
    mixture = estimate_mixture(p, torch.tensor([0.5, 0.5]), mask, tolerance=0, max_iterations=2)
    assert mixture[1].item() == pytest.approx(expected, rel=1e-6)


def test_the_mixture_of_a_sample_drawn_with_other_shares_is_found():
    generator = torch.Generator().manual_seed(0)
    prior, truth = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    means = torch.tensor([0.0, 3.0, 6.0])
    x = means[torch.multinomial(truth, 20000, True, generator=generator)] + torch.randn(20000, generator=generator)
    likelihood = torch.exp(-0.5 * (x - means[:, None]) ** 2) * prior[:, None]
    p = (likelihood / likelihood.sum(0))[None]
    mixture = estimate_mixture(p, prior, torch.ones(1, 1, 20000, dtype=torch.bool), tolerance=1e-6)
    torch.testing.assert_close(mixture.float(), truth, rtol=0, atol=0.02)


def test_the_iteration_ends_where_a_step_changes_little_enough():
    p, mask, prior = column(0.9, 0.8, 0.9), torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([0.5, 0.5])
    one = estimate_mixture(p, prior, mask, max_iterations=1)
    change = float((one - prior).abs().sum())
    assert torch.equal(estimate_mixture(p, prior, mask, tolerance=change + 1e-9), one)
    assert not torch.equal(estimate_mixture(p, prior, mask, tolerance=change - 1e-9), one)


def test_a_class_without_annotation_and_a_sample_without_voxels():
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    mixture = estimate_mixture(column(0.9, 0.3, 0.6), torch.tensor([1.0, 0.0]), mask)
    assert mixture.tolist() == [1.0, 0.0]
    prior = torch.tensor([0.25, 0.75])
    assert estimate_mixture(column(0.9, 0.3, 0.6), prior, ~mask).tolist() == prior.tolist()


def test_thresholds_by_hand_and_never_for_the_background():
    p = column(0.1, 0.2, 0.3, 0.4, 0.5, 0.95)
    mask = torch.tensor([[[True, True, True, True, True, False]]])
    for share, threshold in ((0.4, 0.3), (0.39, 0.3), (0.2, 0.4), (0.0, 0.5), (1.0, 0.1), (0.9, 0.1)):
        thresholds = class_thresholds(p, torch.tensor([1 - share, share], dtype=torch.float64), mask)
        assert thresholds.tolist() == [-math.inf, pytest.approx(threshold)], share
    negative = ruled_out(p, torch.tensor([-math.inf, 0.4]), mask)
    assert negative[0].int().tolist() == [[0] * 6, [1, 1, 1, 0, 0, 0]]
    assert not ruled_out(p, class_thresholds(p, torch.tensor([0.5, 0.5]), ~mask & mask), ~mask & mask).any()


@pytest.mark.parametrize("spatial", [(4, 5), (3, 4, 2)])
def test_marginal_loss_by_hand(spatial):
    logits = torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p = torch.softmax(logits, 1)
    negative = torch.zeros(2, 3, *spatial, dtype=torch.bool)
    first, second = (0, slice(None), *[0] * len(spatial)), (1, slice(None), *[1] * len(spatial))
    negative[first] = torch.tensor([False, True, False])
    negative[second] = torch.tensor([False, True, True])
    loss = marginal_loss(p, negative)
    a, b = p[first].tolist(), p[second].tolist()
    assert loss.item() == pytest.approx(-(math.log(a[0] + a[2]) + math.log(b[0])) / 2, rel=1e-5)
    loss.backward()
    touched = logits.grad.abs().sum(1) > 0
    assert touched.sum() == 2 and touched[0].any() and touched[1].any()
    assert (logits.grad[first][1] > 0) and (logits.grad[first][[0, 2]] < 0).all()  # away from what it is not
    empty = marginal_loss(torch.softmax(logits, 1), torch.zeros_like(negative))
    assert empty.item() == 0


def test_the_loss_is_finite_in_half_precision_and_where_nothing_is_left():
    p = torch.tensor([[[1e-8], [1 - 1e-8]]]).half()
    loss = marginal_loss(p, torch.tensor([[[False], [True]]]))
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


def test_a_sample_prefers_voxels_in_the_mask_and_repeats_none():
    torch.manual_seed(0)
    values = torch.arange(24.0).reshape(2, 1, 3, 4)
    mask = values % 3 == 0  # 8 voxels
    sampled_mask, sampled = sample_voxels(10, mask, values)
    assert sampled.shape == sampled_mask.shape == (1, 1, 10) and int(sampled_mask.sum()) == 8
    assert len(set(sampled.flatten().tolist())) == 10
    assert torch.equal(sampled % 3 == 0, sampled_mask)
    (all_of_the_mask,) = sample_voxels(24, mask)
    assert torch.equal(all_of_the_mask.flatten(), mask.flatten())
    two = torch.stack((values, values + 100), 1)[:, :, 0]
    _, both = sample_voxels(5, mask, two)
    assert torch.equal(both[0, 1], both[0, 0] + 100)


def test_the_threshold_is_the_voxel_of_its_rank():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 3, 7, 5, generator=generator).softmax(1)
    mask = torch.rand(2, 1, 7, 5, generator=generator) > 0.4
    mixture = torch.tensor([0.2, 0.5, 0.9])
    found = class_thresholds(p, mixture, mask)
    assert found[0] == -math.inf
    for c in (1, 2):
        ordered = sorted(p[:, c][mask[:, 0]].tolist())
        assert found[c].item() == ordered[max(int(len(ordered) * (1 - mixture[c].item())) - 1, 0)]
    assert class_thresholds(p, mixture, mask & ~mask)[1:].tolist() == [math.inf, math.inf]  # nothing to rule out of
