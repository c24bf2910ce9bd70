"""SemiSupervised with weights of classes by their reliability: the formula, and the trainer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.trainers import reliability
from nnunet_ssl.losses.self_training import self_training_loss
from tests.helpers.trainers import next_batches, past_every_switch, run_steps
from tests.helpers.training import copy_batch, make_trainer, started


def test_a_class_that_is_not_found_takes_the_weight_of_the_background():
    counts = torch.tensor([[90.0, 40.0, 0.0], [10.0, 60.0, 0.0], [30.0, 10.0, 0.0]])  # the third has not occurred yet
    assert reliability.reliability_of(counts).tolist() == pytest.approx([0.75**2, 0.9**2, 0.4**2, 0])
    counts[2, 2] = 5.0  # it occurs, and is not found
    assert reliability.reliability_of(counts)[0] == 0


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 1, 8, 6), generator=generator)
    sure, inside = torch.rand(2, 2, 1, 8, 6, generator=generator) > 0.3
    return logits, labels, sure, inside


def test_equal_weights_are_those_of_semi_supervised():
    logits, labels, sure, inside = drawn()
    loss = reliability.weighted_loss(logits, labels, sure, inside, torch.ones(3), False)
    assert torch.equal(loss, self_training_loss(logits, labels, sure, inside))


def test_a_label_counts_its_weight_in_the_cross_entropy():
    logits, labels, sure, inside = drawn()
    weights = torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)
    loss = reliability.weighted_loss(logits, labels, sure, inside, weights, False)
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


def test_weights_below_1_make_the_term_smaller(datasets, tmp_path, trainers_of_benchmarks):
    _, expected, batch = step(datasets, tmp_path / "plain", "nnUNetTrainerSemiSupervised", confidence=0.3)
    name = "nnUNetTrainerSemiSupervisedReliability"
    trainer, values, _ = step(datasets, tmp_path / "weights", name, batch, confidence=0.3)
    assert 0 < values["pseudo"] < expected["pseudo"] and trainer.counts.counts.sum() > 0
