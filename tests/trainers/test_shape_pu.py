"""ShapePU: shares of classes, voxels that cannot be of a class, and what is left of the probability."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.engine.running_mean import RunningMean
from nnunet_ssl.losses.positive_unlabeled import (
    class_shares,
    class_thresholds,
    estimate_mixture,
    marginal_loss,
    ruled_out,
    sample_voxels,
)
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

TRAINER = "nnUNetTrainerShapePU"


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


def test_the_running_mean_begins_with_the_first_value_and_passes_over_what_is_not_finite():
    mean = RunningMean((3,), decay=0.75, initial=9.0)
    nan = float("nan")
    assert mean(torch.tensor([1.0, 3.0, nan], dtype=torch.float64)).tolist() == [1, 3, 9]
    assert mean(torch.tensor([nan, 7.0, nan])).tolist() == [1, 4, 9]
    assert mean(torch.tensor([5.0, 4.0, 2.0])).tolist() == [2, 4, 2]
    assert mean.updates.tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="decay"):
        RunningMean((2,), decay=1.0)


def trained(datasets, tmp_path, configuration="2d", **attributes):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(TRAINER, out, dataset, configuration, results=tmp_path, **attributes))
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    return trainer, next(trainer.dataloader_train)


def set_mixture(trainer, shares, updates=(1, 1, 1)):
    """Shares as if estimated before: those of an untrained network's first batch may rule nothing out."""
    trainer.mixture.module.mean.copy_(torch.tensor(shares))
    trainer.mixture.module.updates.copy_(torch.tensor(updates))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_step_calls_what_the_golden_values_prove(configuration, datasets, tmp_path, monkeypatch):
    trainer, batch = trained(datasets, tmp_path, configuration, mixture_decay=0.99)
    set_mixture(trainer, [0.6, 0.3, 0.1])
    library = "nnunet_ssl.losses.positive_unlabeled"
    names = ("class_shares", "class_thresholds", "estimate_mixture", "marginal_loss", "ruled_out")
    calls = {name: record_calls(monkeypatch, f"{library}.{name}") for name in names}
    values = trainer.train_step(copy_batch(batch))
    assert all(calls.values()) and all(values[name] > 0 for name in ("consistency", "marginal"))
    (((_, negative), _),) = calls["marginal_loss"]
    annotated = trainer.annotated(batch["target"])
    assert negative[:, 1:].any() and not negative[:, 0].any()
    assert not (negative & annotated).any() and not (negative & ~batch["labeled_inside"]).any()
    mixture = trainer.mixture.module.mean
    assert mixture.sum().item() == pytest.approx(1, abs=0.02) and (mixture > 0).all()
    assert mixture.tolist() != pytest.approx([0.6, 0.3, 0.1], abs=1e-6)


def test_where_the_mixture_is_estimated_is_an_option(datasets, tmp_path, monkeypatch):
    for number, (choice, other) in enumerate((("unannotated", False), ("annotated", True))):
        trainer, batch = trained(datasets, tmp_path / str(number), mixture_of=choice)
        calls = record_calls(monkeypatch, "nnunet_ssl.losses.positive_unlabeled.estimate_mixture")
        trainer.train_step(copy_batch(batch))
        (((_, _, mask), _),) = calls
        annotated = trainer.annotated(batch["target"]) & batch["labeled_inside"]
        expected = annotated if other else ~trainer.annotated(batch["target"]) & batch["labeled_inside"]
        assert int(mask.sum()) == int(expected.sum())
    with pytest.raises(ValueError, match="mixture_of"):
        trained(datasets, tmp_path / "wrong", mixture_of="both")


def test_the_marginal_loss_waits_and_the_mixture_with_it(datasets, tmp_path):
    trainer, batch = trained(datasets, tmp_path)
    trainer.iteration = 0
    assert trainer.weights()["marginal"] == 0
    assert trainer.train_step(copy_batch(batch))["marginal"] == 0
    assert not trainer.mixture.module.updates.any()


def test_a_class_that_no_scribble_of_the_batch_has_keeps_its_share(datasets, tmp_path, monkeypatch):
    trainer, batch = trained(datasets, tmp_path, mixture_decay=0.99)
    set_mixture(trainer, [0.6, 0.3, 1.0], updates=(1, 1, 0))  # no batch so far had class 2
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.positive_unlabeled.marginal_loss")
    batch["target"] = [torch.where(t == 2, 3, t) for t in batch["target"]]  # 3: not annotated
    trainer.train_step(copy_batch(batch))
    assert trainer.mixture.module.mean[2] == 1 and trainer.mixture.module.updates.tolist() == [2, 2, 0]
    negative = calls[0][0][1]
    assert negative[:, 1].any() and not negative[:, 2].any()
    set_mixture(trainer, [0.6, 0.3, 0.1])
    trainer.train_step(copy_batch(batch))
    assert trainer.mixture.module.mean[2].item() == pytest.approx(0.1)
    negative = calls[1][0][1]
    assert negative[:, 2].any()
