"""ShapePU: shares of classes, voxels that cannot be of a class, and what is left of the probability."""

from __future__ import annotations

import pytest
import torch

from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

TRAINER = "nnUNetTrainerShapePU"


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
