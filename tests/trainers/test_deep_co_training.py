"""nnUNetTrainerDeepCoTraining: the published step by hand, and the rotation of SSL4MIS."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerDeepCoTraining"


def test_the_published_terms_by_hand(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, step=0.5))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :5] = False
    n, images = len(batch["data"]), torch.cat((batch["data"], batch["unlabeled"]))
    networks = trainer.network, trainer.second.module
    p, examples = [], []
    for network in networks:
        x = images.clone().requires_grad_()
        z = network(x)[0]
        F.cross_entropy(z, z.argmax(1)).backward()
        examples.append(images + 0.5 * x.grad.sign())
        p.append(torch.softmax(z, 1).detach())
        network.zero_grad()
    counted = torch.cat((torch.ones_like(batch["data"][:, :1], dtype=torch.bool), batch["inside"]))[:, 0]
    difference = 0.0
    for i in (0, 1):
        with torch.no_grad():
            logs = F.log_softmax(networks[1 - i](examples[i])[0], 1)
        difference += -(p[i] * logs).sum(1)[counted].mean().item()

    def entropy(q):
        return -(q * q.log()).sum(1)[batch["inside"][:, 0]].mean().item()

    a, b = (q[n:] for q in p)
    values = trainer.train_step(copy_batch(batch))
    assert values["difference"] == pytest.approx(difference, rel=1e-3)
    assert values["agreement"] == pytest.approx(entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2, rel=1e-2)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_rotated_view_of_ssl4mis(configuration, datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer(NAME, *datasets(), configuration, results=tmp_path, views="rotation"))
    assert not list(trainer.members) and list(trainer.weights()) == ["rotation"]
    batch = next(trainer.dataloader_train)
    calls = {
        f: record_calls(monkeypatch, f"nnunet_ssl.{f}")
        for f in ("losses.consistency.mutual_mse", "patches.turns.turn_and_flip")
    }
    seen = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    values = trainer.train_step(copy_batch(batch))
    handle.remove()
    assert all(calls.values()) and values["rotation"] > 0
    found = [torch.equal(seen[1], torch.rot90(batch["unlabeled"], k, (-2, -1))) for k in (1, 2, 3)]
    assert sum(found) == 1


def test_where_a_quarter_turn_does_not_fit_it_is_half_a_turn(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, views="rotation"))
    trainer.configuration_manager.configuration["spacing"] = [1.0, 2.0]
    batch = next(trainer.dataloader_train)
    seen = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    trainer.train_step(copy_batch(batch))
    handle.remove()
    assert torch.equal(seen[1], torch.rot90(batch["unlabeled"], 2, (-2, -1)))


def test_other_views_are_refused(datasets, tmp_path):
    with pytest.raises(ValueError, match="'adversarial' or 'rotation', got 'both'"):
        make_trainer(NAME, *datasets(), results=tmp_path, views="both").initialize()
