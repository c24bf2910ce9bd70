"""What is special in `nnUNetTrainerScribbleUSTM`: turns of the teacher's patches, and what it shares with UA-MT."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

USTM = "nnUNetTrainerScribbleUSTM"


def a_step(datasets, tmp_path, configuration="2d", **attributes):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(USTM, out, dataset, configuration, results=tmp_path, **attributes))
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    return trainer, next(trainer.dataloader_train)


def test_passes_per_step(datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path)
    calls = []
    network, teacher = trainer.network.forward, trainer.teacher.module.forward
    monkeypatch.setattr(trainer.network, "forward", lambda x: calls.append("student") or network(x))
    monkeypatch.setattr(trainer.teacher.module, "forward", lambda x: calls.append("teacher") or teacher(x))
    trainer.train_step(batch)
    assert sorted(calls) == ["student"] + 9 * ["teacher"]


@pytest.mark.parametrize("turns", range(4))
def test_student_teacher_and_mask_are_compared_in_one_frame(turns, datasets, tmp_path, monkeypatch):
    """Without noise, dropout and threshold, and with the student as its own teacher, by hand."""
    certain = {"threshold_start": 9.0, "threshold_end": 9.0}
    trainer, batch = a_step(datasets, tmp_path, noise_std=0.0, dropout=0.0, teacher_view="student", **certain)
    monkeypatch.setattr(np.random, "randint", lambda high: turns)
    with torch.no_grad():
        student = trainer.network(batch["data"])[0].softmax(1).rot90(turns, (2, 3))
        teacher = trainer.network(batch["data"].rot90(turns, (2, 3)))[0].softmax(1)
    inside = batch["labeled_inside"].rot90(turns, (2, 3)).expand_as(student)
    batch["labeled_inside"][:, :, :5] = False
    inside = batch["labeled_inside"].rot90(turns, (2, 3)).expand_as(student)
    expected = ((student - teacher) ** 2)[inside].mean()
    found = float(trainer.train_step(copy_batch(batch))["consistency"])
    assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-9)
    assert (found < 1e-9) == (turns == 0)


def test_only_half_turns_where_the_patch_is_not_square(datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path, "3d_fullres", passes=1)
    calls = record_calls(monkeypatch, "nnunet_ssl.patches.turns.turn_and_flip")
    for _ in range(12):
        trainer.train_step(copy_batch(batch))
    assert {args[1] for args, _ in calls} <= {0, 1, 2, 3} and {args[1] for args, _ in calls} & {1, 3}
    calls.clear()
    trainer.configuration_manager.configuration["spacing"] = [1.0, 1.0, 2.0]
    for _ in range(8):
        trainer.train_step(copy_batch(batch))
    assert {args[1] for args, _ in calls} == {0, 2}


def test_two_class_constants_are_the_released_threshold_and_factor(datasets, tmp_path, monkeypatch):
    for literal in (False, True):
        trainer, batch = a_step(datasets, tmp_path / str(literal), two_class_constants=literal)
        calls = record_calls(monkeypatch, "nnunet_ssl.predictions.uncertainty.select_certain")
        losses = record_calls(monkeypatch, "nnunet_ssl.losses.selective.selective_mse")
        trainer.train_step(batch)
        classes = 2 if literal else trainer.label_manager.num_segmentation_heads
        assert calls[0][0][1] == pytest.approx((0.75 + 0.25 * np.exp(-5 * 0.5**2)) * np.log(classes))
        assert losses[0][1]["channels"] == (2 if literal else None)


def test_the_weight_is_the_published_one(datasets, tmp_path):
    trainer, _ = a_step(datasets, tmp_path)
    assert trainer.weights() == {"consistency": pytest.approx(np.exp(-5 * 0.5**2))}
    assert trainer.inference_network() is trainer.teacher
