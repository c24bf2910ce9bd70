"""Parts of SemiSupervised that tell classes apart: their formulas, and the trainer, which is SemiSupervised without them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.trainers import by_class
from nnunet_ssl.losses.self_training import self_training_loss
from tests.helpers.trainers import next_batches, past_every_switch, run_steps
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of


def test_a_class_that_is_not_found_takes_the_weight_of_the_background():
    counts = torch.tensor([[90.0, 40.0, 0.0], [10.0, 60.0, 0.0], [30.0, 10.0, 0.0]])  # the third has not occurred yet
    assert by_class.reliability_of(counts).tolist() == pytest.approx([0.75**2, 0.9**2, 0.4**2, 0])
    counts[2, 2] = 5.0  # it occurs, and is not found
    assert by_class.reliability_of(counts)[0] == 0


def test_the_mean_confidence_is_that_of_voxels_inside_with_the_label():
    labels = torch.tensor([[[[0, 0, 1, 1]]], [[[0, 1, 1, 0]]]])
    confidence = torch.tensor([[[[0.9, 0.7, 0.6, 0.5]]], [[[0.8, 0.7, 0.1, 0.1]]]])
    inside = torch.tensor([[[[True] * 4]], [[[True, True, False, False]]]])
    means = by_class.mean_confidence(labels, confidence, inside, 3)
    assert means[:2].tolist() == pytest.approx([0.8, 0.6]) and math.isnan(means[2])
    assert by_class.thresholds_of(torch.tensor([0.8, 0.6, 0.1]), 0.9).tolist() == pytest.approx([0.9, 0.675, 0.5])


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 1, 8, 6), generator=generator)
    sure, inside = torch.rand(2, 2, 1, 8, 6, generator=generator) > 0.3
    return logits, labels, sure, inside


def test_equal_weights_are_those_of_semi_supervised():
    logits, labels, sure, inside = drawn()
    loss = by_class.weighted_loss(logits, labels, sure, inside, torch.ones(3), False)
    assert torch.equal(loss, self_training_loss(logits, labels, sure, inside))


def test_a_label_counts_its_weight_in_the_cross_entropy():
    logits, labels, sure, inside = drawn()
    weights = torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)
    loss = by_class.weighted_loss(logits, labels, sure, inside, weights, False)
    values = F.cross_entropy(logits, labels[:, 0], reduction="none")[:, None]
    lost = ((1 - weights[labels]) * values * (sure & inside)).sum() / inside.sum()
    assert float(self_training_loss(logits, labels, sure, inside) - loss) == pytest.approx(float(lost))


def step(datasets, folder, name, batch=None, **attributes):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, results=folder, num_epochs=20, **attributes))
    past_every_switch(trainer)
    batch = batch or next_batches(trainer)[0]
    (values,) = run_steps(trainer, [copy_batch(batch)])
    return trainer, values, batch


def test_the_trainer_without_parts_is_semi_supervised(datasets, tmp_path, trainers_of_benchmarks):
    plain, expected, batch = step(datasets, tmp_path / "plain", "nnUNetTrainerSemiSupervised", confidence=0.3)
    name = "nnUNetTrainerSemiSupervisedByClass"
    without, values, _ = step(datasets, tmp_path / "without", name, batch, confidence=0.3)
    assert values == expected and values["pseudo"] > 0
    assert largest_difference(weights_of(plain.network), weights_of(without.network)) == 0
    _, values, _ = step(datasets, tmp_path / "weights", name, batch, confidence=0.3, reliability=True)
    assert 0 < values["pseudo"] < expected["pseudo"]
    trainer, values, _ = step(datasets, tmp_path / "thresholds", name, batch, confidence=0.6, thresholds=True)
    assert values["pseudo"] > 0 and trainer.means.updates.sum() > 0
