"""SemiSupervised: nnU-Net until every class is known, then confident labels on mixed patches of other intensities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_ssl.dataloading import streams
from nnunet_ssl.losses.self_training import self_training_loss
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.label_confidence import above_thresholds, confidence_sums, thresholds_of
from nnunet_ssl.predictions.probabilities import probabilities
from tests.helpers.trainers import needs, next_batches, past_every_switch, run_steps, stock_step
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerSemiSupervised"


def make(datasets, tmp_path, options=None, **attributes):
    out, dataset = datasets(**(options or {}))
    return started(make_trainer(NAME, out, dataset, results=tmp_path / "ours", **attributes))


def know_everything(trainer, f1=0.9):
    """Counts with this F1 in every class."""
    module = trainer.gate.counts
    module.counts[:] = torch.tensor([[f1], [1 - f1], [1 - f1]])


def at(trainer, progress):
    trainer.iteration = round(progress * trainer.num_epochs * trainer.num_iterations_per_epoch)


def test_the_first_stage_is_nnunet_bit_for_bit(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path / "ours"))
    before = weights_of(trainer.network)
    (batch,) = next_batches(trainer)
    (values,) = run_steps(trainer, [batch])
    expected, loss = stock_step(out, dataset, tmp_path / "stock", before, batch)
    assert values["pseudo"] == 0 and values["loss"] == loss
    assert largest_difference(weights_of(trainer.network), expected) == 0


def test_the_second_stage_begins_when_every_class_is_known(datasets, tmp_path):
    trainer = make(datasets, tmp_path, num_epochs=100, num_iterations_per_epoch=10)
    know_everything(trainer)
    at(trainer, 0.25)
    trainer.gate.look()
    assert trainer.gate.opened_at is None  # too early, whatever is known
    at(trainer, 0.32)
    know_everything(trainer, f1=0.6)
    trainer.gate.look()
    assert trainer.gate.opened_at is None and trainer.weights() == {"pseudo": 0.0}
    know_everything(trainer, f1=0.75)
    trainer.gate.counts.counts[:, 0] = torch.tensor([0.0, 0.0, 5.0])  # one class is not found at all
    trainer.gate.look()
    assert trainer.gate.opened_at is None
    know_everything(trainer, f1=0.75)
    trainer.gate.look()
    assert trainer.gate.opened_at == 0.32
    know_everything(trainer, f1=0.1)
    at(trainer, 0.38)
    trainer.gate.look()
    assert trainer.gate.opened_at == 0.32  # it does not close again


@pytest.mark.parametrize("attributes", [{}, {"if_rare": 1.0}, {"unlabeled_weight": 0.7}], ids=str)
def test_labels_weigh_less_where_random_patches_seldom_show_foreground(attributes, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SELDOM", 2.0)
    trainer = make(datasets, tmp_path, num_epochs=100, num_iterations_per_epoch=10, **attributes)
    at(trainer, 0.6)
    expected = attributes.get("unlabeled_weight", trainer.unlabeled_share * attributes.get("if_rare", 0.3))
    assert trainer.weights()["pseudo"] == pytest.approx(expected)


def test_the_weight_ramps_up_to_the_share_of_the_unlabeled_images(datasets, tmp_path):
    trainer = make(datasets, tmp_path, num_epochs=100, num_iterations_per_epoch=10)
    labeled, unlabeled = len(trainer.cases.train), len(trainer.unlabeled_pool)
    share = unlabeled / (labeled + unlabeled)
    assert 0 < share < 1
    at(trainer, 0.39)
    assert trainer.weights()["pseudo"] == 0
    at(trainer, 0.4)  # at the latest
    assert trainer.weights()["pseudo"] == pytest.approx(share * math.exp(-5))
    at(trainer, 0.5)
    assert trainer.weights()["pseudo"] == pytest.approx(share)
    trainer.gate.opened_at = 0.1
    at(trainer, 0.15)
    assert trainer.weights()["pseudo"] == pytest.approx(share * math.exp(-1.25))
    trainer.set_unlabeled_cases([])
    assert trainer.weights()["pseudo"] == 0


@pytest.mark.parametrize(("labels_last", "alone"), [(0.0, 0.0), (0.25, 0.25), (None, 0.5)])
def test_the_end_of_the_second_stage_can_be_on_labeled_patches_alone(datasets, tmp_path, labels_last, alone):
    trainer = make(datasets, tmp_path, num_epochs=100, num_iterations_per_epoch=10, labels_last=labels_last)
    trainer.set_unlabeled_cases(trainer.unlabeled_pool[: len(trainer.cases.train)])
    trainer.gate.opened_at = 0.3
    steps = [step for step in range(1000) if at(trainer, step / 1000) or trainer.weights()["pseudo"] > 0]
    assert steps[0] == 300 and steps[-1] == pytest.approx(1000 - 700 * alone, abs=1)
    assert steps == list(range(steps[0], steps[-1] + 1))
    at(trainer, 1)  # after the last step, what an epoch writes into the log
    assert (trainer.weights()["pseudo"] > 0) == (alone == 0)


def test_workers_draw_unlabeled_patches_while_they_are_used(datasets, tmp_path):
    trainer = make(datasets, tmp_path, num_epochs=10, num_iterations_per_epoch=10)
    drawn = []
    for epoch in range(10):
        drawn.append(bool(trainer._shared_pool.read()[1]))
        trainer.iteration = 10 * (epoch + 1)
        if epoch == 3:
            trainer.gate.opened_at = 0.4
        trainer.on_train_epoch_end([{"loss": np.float32(0), "pseudo": np.float32(0)}])
    used = [at(trainer, epoch / 10) or trainer.weights()["pseudo"] > 0 for epoch in range(10)]
    assert drawn == used and any(used[4:]) and not all(used[4:])


@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
def test_the_term_by_hand(options, datasets, tmp_path):
    trainer = make(datasets, tmp_path, options, confidence=0.6)
    past_every_switch(trainer)
    (batch,) = next_batches(trainer)
    with torch.no_grad():
        strong, weak = batch["unlabeled"].chunk(2, dim=1)
        labels, confidence = label_and_confidence(
            probabilities(trainer.teacher(weak)[0], trainer.activation), trainer.activation
        )
        sums = confidence_sums(labels, confidence, batch["inside"], trainer.thresholds.count, trainer.activation)
        of_each = sums[0] / sums[1]
        of_each = torch.where(of_each.isnan(), 1, of_each)  # nothing has this label yet
        sure = above_thresholds(labels, confidence, thresholds_of(of_each, 0.6), trainer.activation)
        assert not torch.equal(sure, confidence >= 0.6)
        expected = 0.0
        for weight, z in zip(trainer.scale_weights, trainer.student(strong), strict=True):
            maps = [resize_nearest(m, z.shape[2:]) for m in (labels, sure, batch["inside"])]
            expected += weight * self_training_loss(z, *maps, trainer.activation)
    (values,) = run_steps(trainer, [copy_batch(batch)])
    assert sure.any() and values["pseudo"] == pytest.approx(expected.item(), rel=1e-4)


def test_there_can_be_one_threshold_for_all_classes(datasets, tmp_path):
    trainer = make(datasets, tmp_path, confidence=0.7, by_class=False)
    labels, confidence = torch.tensor([[[[0, 1, 2]]]]), torch.tensor([[[[0.71, 0.69, 0.7]]]])
    assert trainer.sure(labels, confidence, torch.ones(1, 1, 1, 3, dtype=bool)).tolist() == [[[[True, False, True]]]]


def test_the_thresholds_remember_earlier_steps(datasets, tmp_path):
    trainer = make(datasets, tmp_path, num_epochs=10, num_iterations_per_epoch=10)
    labels, inside = torch.tensor([[[[0, 1, 1]]]]), torch.ones(1, 1, 1, 3, dtype=bool)
    assert trainer.thresholds.means.decay == 0.5
    trainer.sure(labels, torch.tensor([[[[1.0, 0.6, 0.6]]]]), inside)
    sure = trainer.sure(labels, torch.tensor([[[[1.0, 0.71, 0.73]]]]), inside)  # mean 0.66, threshold 0.594
    assert sure.all() and trainer.thresholds.means.mean[:2].tolist() == pytest.approx([1, 0.66])


def test_the_weak_view_has_nnunets_geometry_alone(datasets, tmp_path):
    trainer = make(datasets, tmp_path, {"mask_norm": True})
    intensity = [object(), MaskImageTransform([0], 0, 0), object()]
    views = trainer.unlabeled_views(intensity)
    *others, rectangles, mask = views["strong"]
    assert views["weak"] == [mask] == intensity[1:2] and others == [intensity[0], intensity[2]]
    assert isinstance(rectangles, RandomTransform)
    assert trainer.view_names == ("strong", "weak")


@pytest.mark.parametrize(("blank", "unlabeled", "expected"), [(None, 4, 0.8), (None, 3, 0.0), (0.3, 3, 0.3)])
def test_rectangles_are_hidden_where_more_images_are_unlabeled_than_labeled(
    datasets, tmp_path, blank, unlabeled, expected
):
    trainer = make(datasets, tmp_path, {"unlabeled": 4}, blank=blank)
    assert len(trainer.cases.train) == 3
    trainer.set_unlabeled_cases(trainer.unlabeled_pool[:unlabeled])
    (rectangles,) = trainer.unlabeled_views([])["strong"]
    assert rectangles.apply_probability == expected


def test_partial_labels_have_their_own_loss_and_count_what_is_annotated(datasets, tmp_path):
    options = needs("nnUNetTrainerPartialLabel", unlabeled=4)
    trainer = make(datasets, tmp_path, options)
    assert not trainer.everything_annotated
    past_every_switch(trainer)
    (values,) = run_steps(trainer, next_batches(trainer))
    assert values["pseudo"] > 0
    out, dataset = datasets(**options)
    partial = started(make_trainer("nnUNetTrainerPartialLabel", out, dataset, results=tmp_path / "partial"))
    trainer = make(datasets, tmp_path, options)
    (batch,) = next_batches(trainer)
    labeled = {k: v for k, v in batch.items() if not k.startswith("unlabeled") and k != "inside"}
    assert run_steps(trainer, [copy_batch(batch)])[0]["labeled"] == run_steps(partial, [labeled])[0]["labeled"]
