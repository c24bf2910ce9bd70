"""nnUNetTrainerCrossTeaching: who teaches whom, and how the transformer is trained."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.mixed_pseudo_labels import pseudo_dice
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerCrossTeaching"


@pytest.mark.parametrize(("configuration", "teacher_view"), [("2d", "weak"), ("3d_fullres", "weak"), ("2d", "student")])
def test_a_step_by_hand(configuration, teacher_view, datasets, tmp_path):
    settings = {"drop_path": 0.0, "teacher_view": teacher_view}
    trainer = started(make_trainer(NAME, *datasets(), configuration, results=tmp_path, **settings))
    batch = next(trainer.dataloader_train)
    views = batch["unlabeled"].chunk(1 + (teacher_view == "weak"), dim=1)
    if teacher_view == "weak":
        views[1].add_(0.1 * torch.randn_like(views[1]))  # the views differ, whatever was drawn
    with torch.no_grad():
        first, second = trainer.network(views[0])[0], trainer.transformer(views[0])[0]
        labels = [network(views[-1])[0].argmax(1, keepdim=True) for network in (trainer.transformer, trainer.network)]
        of_labels = trainer.loss.loss(trainer.transformer(batch["data"])[0], batch["target"][0])
        expected = [
            pseudo_dice(z, label, mask=batch["inside"]).item() for z, label in zip((first, second), labels, strict=True)
        ]
    values = trainer.train_step(copy_batch(batch))
    found = [values["cross_teaching"], values["cross_teaching_transformer"]]
    assert found == pytest.approx(expected, rel=1e-4)
    assert values["labeled_transformer"] == pytest.approx(of_labels.item(), rel=1e-4)


def test_the_transformer_teaches_later_than_it_learns(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, rampup_fraction=0.0))
    trainer.iteration = trainer.total_steps // 10
    assert trainer.weights() == {"cross_teaching": 0.0, "cross_teaching_transformer": 1.0}
    trainer.iteration = trainer.total_steps // 2
    assert trainer.weights() == {"cross_teaching": 1.0, "cross_teaching_transformer": 1.0}


def test_the_transformer_has_its_own_optimizer(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    optimizer = trainer.transformer.optimizer
    assert isinstance(optimizer, torch.optim.AdamW) and trainer.transformer.clip == 1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3e-4 / 51)  # in the first of 50 epochs of warm-up


def test_the_rate_of_the_transformer_rises_in_a_twentieth_of_the_run(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, num_epochs=40))
    rates = []
    for _ in range(4):
        rates.append(trainer.transformer.optimizer.param_groups[0]["lr"])
        trainer.transformer.optimizer.step()
        trainer.transformer.scheduler.step()
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 3e-4 * (37 / 38) ** 0.9])
