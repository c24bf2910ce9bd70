"""What is special in `nnUNetTrainerUAMT`: passes, dropout, options."""

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import UserError
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

UAMT = "nnUNetTrainerUAMT"


def a_step(datasets, tmp_path, data=None, **attributes):
    out, dataset = datasets(**(data or {}))
    trainer = started(make_trainer(UAMT, out, dataset, results=tmp_path, **attributes))
    return trainer, next(trainer.dataloader_train)


def test_passes_per_step(datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path)
    calls = []
    network, teacher = trainer.network.forward, trainer.teacher.module.forward
    monkeypatch.setattr(trainer.network, "forward", lambda x: calls.append(("student", len(x))) or network(x))
    monkeypatch.setattr(trainer.teacher.module, "forward", lambda x: calls.append(("teacher", len(x))) or teacher(x))
    trainer.train_step(batch)
    labeled, unlabeled = len(batch["data"]), len(batch["unlabeled"])
    assert sorted(calls) == sorted([("student", labeled + unlabeled)] + 9 * [("teacher", unlabeled)])


@pytest.mark.parametrize("dropout, everywhere, expected", [(0.5, False, 16), (0.5, True, 20), (0.0, False, 0)])
def test_which_passes_have_dropout(dropout, everywhere, expected, datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path, dropout=dropout, train_with_dropout=everywhere)
    calls = record_calls(monkeypatch, "nnunet_ssl.networks.dropout.drop_channels")
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert len(calls) == expected  # two places a pass: 8 teacher passes; with the student and the target pass 10
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(copy_batch(next(trainer.dataloader_val)))
    assert len(calls) == expected


def test_a_student_trained_with_dropout_is_validated_without(datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path, train_with_dropout=True, inference="student")
    trainer.train_step(batch)
    calls = record_calls(monkeypatch, "nnunet_ssl.networks.dropout.drop_channels")
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(copy_batch(next(trainer.dataloader_val)))
    assert not calls


@pytest.mark.parametrize("regions", [False, True])
def test_the_selection_follows_the_kind_of_label(regions, datasets, tmp_path, monkeypatch):
    trainer, batch = a_step(datasets, tmp_path, data={"regions": regions})
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.selective.selective_mse")
    trainer.train_step(batch)
    ((logits, _, selected, *_), _), *_ = calls
    channels = logits.shape[1] if regions else 1
    assert selected.shape == (logits.shape[0], channels, *logits.shape[2:])


def test_two_class_constants_accept_less_and_weigh_more(datasets, tmp_path, monkeypatch):
    thresholds = []
    for literal in (False, True):
        trainer, batch = a_step(datasets, tmp_path / str(literal), two_class_constants=literal)
        calls = record_calls(monkeypatch, "nnunet_ssl.predictions.uncertainty.select_certain")
        losses = record_calls(monkeypatch, "nnunet_ssl.losses.selective.selective_mse")
        trainer.train_step(batch)
        thresholds.append(calls[0][0][1])
        assert losses[0][1]["channels"] == (2 if literal else None)
    classes = trainer.label_manager.num_segmentation_heads
    assert thresholds[0] / thresholds[1] == pytest.approx(np.log(classes) / np.log(2))


def test_wrong_settings_are_refused(datasets, tmp_path):
    with pytest.raises(UserError, match="inference"):
        a_step(datasets, tmp_path, inference="both")
