"""nnUNetTrainerSDCL: its corrections by hand, and which network the teacher follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.training import copy_batch, largest_difference, make_trainer, seed_everything, started, weights_of

NAME = "nnUNetTrainerSDCL"


@pytest.mark.parametrize("regions", [False, True])
def test_corrections_by_hand(regions, datasets, tmp_path):
    attributes = {"enable_deep_supervision": False, "pretrain_fraction": 0.0, "competence": 0.0}
    out, dataset = datasets(regions=regions)
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, largest_component=False, **attributes))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :6] = False
    x, y, (u, weak) = batch["data"], batch["target"], batch["unlabeled"].chunk(2, dim=1)
    random, shape = np.random.RandomState(5), x.shape[2:]
    size = [int(s * 2 / 3) for s in shape]
    starts = [random.randint(0, s - n + 1) for s, n in zip(shape, size)]
    box = torch.ones(shape, dtype=torch.bool)
    box[tuple(slice(a, a + n) for a, n in zip(starts, size))] = False
    masks = torch.stack((box, ~box))[:, None]  # True: labeled
    networks = trainer.network, trainer.second.module
    with torch.no_grad():
        z = trainer.network(weak)
        q = (z > 0).float() if regions else z.argmax(1, keepdim=True)
        labels = torch.where(masks, y.float(), q.float())
        logits = [network(torch.where(masks, x, u)) for network in networks]
    counted = masks | batch["inside"]
    weight = torch.where(masks, 1.0, 0.5)
    hard = [z > 0 if regions else z.argmax(1, keepdim=True) for z in logits]
    differ = (hard[0] != hard[1]) & counted
    expected = {}
    for suffix, z, h in zip(("", "_second"), logits, hard):
        if regions:
            error = (torch.sigmoid(z) - labels) ** 2
            doubt = -(torch.sigmoid(z).log() + torch.sigmoid(-z).log()) / 2
        else:
            channels = torch.cat([labels == c for c in range(z.shape[1])], 1).float()
            error = ((torch.softmax(z, 1) - channels) ** 2).mean(1, keepdim=True)
            doubt = -torch.log_softmax(z, 1).mean(1, keepdim=True)
        w = weight.expand_as(error)
        wrong = differ & (h != labels.to(h.dtype))
        expected[f"correction{suffix}"] = ((error * w)[differ].sum() / differ.sum()).item()
        expected[f"doubt{suffix}"] = ((doubt * w)[wrong].sum() / wrong.sum()).item()
    seed_everything(5)
    values = trainer.train_step(copy_batch(batch))
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-3)
    assert all(value > 0 for value in expected.values())


def test_students_differ_in_kind_and_the_teacher_follows_the_first(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    assert type(trainer.network) is not type(trainer.second.module)
    values = trainer.train_step(next(trainer.dataloader_train))
    assert {key for key, value in values.items() if value} == {"loss", "labeled", "labeled_second"}  # pre-training
    assert largest_difference(weights_of(trainer.network), weights_of(trainer.teacher.module)) == 0
