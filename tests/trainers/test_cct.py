"""nnUNetTrainerCCT: what its further decoders see and learn, in both published forms."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerCCT"


def test_without_perturbations_a_term_is_the_distance_of_the_decoders(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, noise=0.0, dropout=0.0, strongest=(2.0, 2.0)))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :5] = False
    errors = []
    with torch.no_grad():
        main = torch.softmax(trainer.network(batch["unlabeled"])[0], 1)
        features = trainer.network.encoder(batch["unlabeled"])
        for decoder in trainer.auxiliaries:
            error = (torch.softmax(decoder.module.decoder(features), 1) - main) ** 2
            errors.append(error[batch["inside"].expand_as(error)].mean())
    value = trainer.train_step(copy_batch(batch))["consistency"]
    assert value == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4) and value > 0


@pytest.mark.parametrize("detach", [True, False])
def test_a_target_gets_no_gradient(detach, datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, detach=detach))
    trainer.weights = lambda: {"labeled": 0.0, "consistency": 1.0}
    trainer._weight_names = None
    trainer.train_step(next(trainer.dataloader_train))
    gradients = [p.grad for p in trainer.network.decoder.seg_layers.parameters()]
    moved = any(g is not None and g.abs().max() > 0 for g in gradients)
    assert moved == (not detach)
    assert all(
        p.grad is not None
        for decoder in trainer.auxiliaries
        for p in decoder.module.decoder.seg_layers[-1].parameters()
    )


def test_further_decoders_learn_labels_as_in_ssl4mis(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, auxiliary_on_labeled=True))
    assert list(trainer.weights()) == ["labeled_auxiliary", "consistency"]
    values = trainer.train_step(next(trainer.dataloader_train))
    assert abs(values["labeled_auxiliary"]) > 0
