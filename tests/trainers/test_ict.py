"""nnUNetTrainerICT: a step by hand, and steps that have nothing to mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import UserError
from tests.helpers.training import copy_batch, make_trainer, seed_everything, started

NAME = "nnUNetTrainerICT"


@pytest.mark.parametrize("patches", [2, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_a_step_by_hand(regions, patches, datasets, tmp_path):
    out, dataset = datasets(regions=regions)
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, unlabeled_batch_size=patches, alpha=1.0))
    for parameter in trainer.teacher.module.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape)
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :5] = False
    pairs = {2: [(0, 1)], 3: [(0, 2), (1, 0)]}[patches]
    seed_everything(4)
    shares = np.random.RandomState(4).beta(1.0, 1.0, len(pairs))
    activate = torch.sigmoid if regions else lambda z: torch.softmax(z, 1)
    u, weak = batch["unlabeled"].chunk(2, dim=1)
    inside = batch["inside"]
    u += 0.1 * torch.randn_like(u)  # in place: what the student sees, whatever was drawn for the batch
    with torch.no_grad():
        q = activate(trainer.teacher(weak)[0])
        errors = []
        for (a, b), share in zip(pairs, shares):
            p = activate(trainer.network(((1 - share) * u[a] + share * u[b])[None].float())[0])[0]
            error = (p - ((1 - share) * q[a] + share * q[b])) ** 2
            errors.append(error[(inside[a] & inside[b]).expand_as(error)])
    seen = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    values = trainer.train_step(copy_batch(batch))
    handle.remove()
    assert len(seen) == 1 and torch.equal(seen[0][: len(batch["data"])], batch["data"])
    assert len(seen[0]) == len(batch["data"]) + len(pairs)
    assert values["consistency"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-3)


def test_a_single_patch_has_nothing_to_be_mixed_with(datasets, tmp_path):
    trainer = make_trainer(NAME, *datasets(), results=tmp_path, unlabeled_batch_size=1)
    with pytest.raises(UserError, match=r"has 1 of them in a step. Set unlabeled_batch_size = 2 or more"):
        trainer.initialize()
