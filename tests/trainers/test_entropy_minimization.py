"""nnUNetTrainerEntropyMinimization: its term by hand, and what it is a mean over."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerEntropyMinimization"


@pytest.mark.parametrize("on_labeled", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_the_term_is_the_mean_entropy_in_units_of_the_largest(regions, on_labeled, datasets, tmp_path):
    out, dataset = datasets(regions=regions)
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, on_labeled=on_labeled))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :5] = False
    with torch.no_grad():
        z = trainer.network(torch.cat((batch["data"], batch["unlabeled"])))[0]
    if regions:
        p = torch.sigmoid(z)
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)
    else:
        p = torch.softmax(z, 1)
        entropy = -(p * p.log()).sum(1, keepdim=True) / math.log(z.shape[1])
    n = len(batch["data"])
    parts = [entropy[n:][batch["inside"].expand_as(entropy[n:])]]
    parts += [entropy[:n].flatten()] if on_labeled else []
    value = trainer.train_step(copy_batch(batch))["entropy"]
    assert value == pytest.approx(torch.cat(parts).mean().item(), rel=1e-4)
