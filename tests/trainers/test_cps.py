"""Cross pseudo supervision: its losses, CutMix, and the options of its trainer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.losses.cross_pseudo import cross_pseudo_losses
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, seed_everything, started, weights_of

# -------------------------------------------------------------------------------------------------------- the trainer


def cps(datasets, tmp_path, configuration="2d", options=None, **attributes):
    out, dataset = datasets(**(options or {}))
    return started(make_trainer("nnUNetTrainerCPS", out, dataset, configuration, results=tmp_path, **attributes))


def test_the_networks_differ_from_the_start(datasets, tmp_path):
    trainer = cps(datasets, tmp_path)
    image = torch.randn(1, 1, 24, 24)
    assert not torch.allclose(trainer.student(image)[0], trainer.second(image)[0], atol=0.01)


@pytest.mark.parametrize("teacher_view", ["weak", "student"])
def test_the_step_is_that_of_two_separate_networks(teacher_view, datasets, tmp_path):
    """By hand, each network with its own loss and optimizer."""
    trainer = cps(datasets, tmp_path, consistency_weight=3.0, rampup_fraction=0.0, teacher_view=teacher_view)
    networks = [make_trainer("nnUNetTrainer", *datasets(), results=tmp_path / "stock") for _ in range(2)]
    for stock, module in zip(networks, (trainer.network, trainer.second.module), strict=True):
        stock.initialize()
        stock.network.load_state_dict(weights_of(module))
        stock.network.train()
        stock.lr_scheduler.step(0)
    batch = next(trainer.dataloader_train)
    views = batch["unlabeled"].chunk(1 + (teacher_view == "weak"), dim=1)
    if teacher_view == "weak":
        views[1].add_(0.1 * torch.randn_like(views[1]))  # the views differ, whatever was drawn
    trainer.train_step(copy_batch(batch))
    labels = [n.network(views[-1])[0].argmax(1) for n in networks]
    for stock, label in zip(networks, labels[::-1], strict=True):
        supervised = stock.loss(stock.network(batch["data"]), batch["target"])
        pseudo = torch.nn.functional.cross_entropy(stock.network(views[0])[0], label, reduction="none")
        inside = batch["inside"][:, 0]
        (supervised + 3.0 * (pseudo * inside).sum() / inside.sum()).backward()
        torch.nn.utils.clip_grad_norm_(stock.network.parameters(), 12)
        stock.optimizer.step()
    assert largest_difference(weights_of(networks[0].network), weights_of(trainer.network)) < 1e-6
    assert largest_difference(weights_of(networks[1].network), weights_of(trainer.second.module)) < 1e-6


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("regions", [False, True])
def test_with_mix_pseudo_labels_are_made_before_mixing(regions, configuration, datasets, tmp_path, monkeypatch):
    trainer = cps(datasets, tmp_path, configuration, {"regions": regions}, mix=True)
    batch = next(trainer.dataloader_train)
    strong, weak = batch["unlabeled"].chunk(2, dim=1)
    weak.add_(0.1 * torch.randn_like(weak))  # the views differ, whatever was drawn
    seen = []
    forward = trainer.student.network.forward
    monkeypatch.setattr(trainer.network, "forward", lambda x: seen.append(x.clone()) or forward(x))
    calls = {f: record_calls(monkeypatch, f"nnunet_ssl.patches.mixing.{f}") for f in ("box_masks", "copy_paste")}
    values = trainer.train_step(copy_batch(batch))
    assert all(calls.values()) and np.isfinite(values["loss"]) and values["cps_first"] > 0 < values["cps_second"]
    assert len(seen) == 2 and torch.equal(seen[0], weak)
    labeled, mixed = seen[1][: len(batch["data"])], seen[1][len(batch["data"]) :]
    assert torch.equal(labeled, batch["data"])
    own, partner = mixed == strong, mixed == strong.roll(1, 0)
    assert (own | partner).all() and not own.all() and not partner.all()
    assert all(p.grad is not None for p in trainer.network.encoder.parameters())


def test_on_labeled_is_one_mean_over_all_patches(datasets, tmp_path):
    trainer = cps(datasets, tmp_path, on_labeled=True, teacher_view="student")
    batch = next(trainer.dataloader_train)
    batch["inside"].fill_(True)
    with torch.no_grad():
        images = torch.cat((batch["data"], batch["unlabeled"]))
        logits = trainer.student(images)[0], trainer.second(images)[0]
        expected = [float(loss) for loss in cross_pseudo_losses(*logits)]
    values = trainer.train_step(copy_batch(batch))
    assert [values["cps_first"], values["cps_second"]] == pytest.approx(expected, rel=1e-5)


def test_mix_and_on_labeled_together_are_refused(datasets, tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        cps(datasets, tmp_path, mix=True, on_labeled=True)


def test_on_labeled_needs_labels_from_the_same_patch(datasets, tmp_path):
    with pytest.raises(ValueError, match="needs teacher_view = 'student'"):
        cps(datasets, tmp_path, on_labeled=True)


def test_the_weight_is_ramped_over_its_share_of_the_run(datasets, tmp_path):
    trainer = cps(datasets, tmp_path, rampup_fraction=0.5)
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    found = []
    for progress in (0, 0.25, 0.5, 1):
        trainer.iteration = int(progress * steps)
        found.append(trainer.weights()["cps_first"])
    assert found == pytest.approx([0.2 * math.exp(-5), 0.2 * math.exp(-1.25), 0.2, 0.2])
    trainer.rampup_fraction, trainer.iteration = 0.0, 0
    assert trainer.weights() == {"cps_first": 0.2, "cps_second": 0.2}


def test_the_second_network_is_not_the_one_stored(datasets, tmp_path):
    seed_everything(0)
    trainer = cps(datasets, tmp_path)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    checkpoint = torch.load(tmp_path / "c.pth", weights_only=False)
    assert largest_difference(checkpoint["network_weights"], weights_of(trainer.network)) == 0
    assert largest_difference(checkpoint["ssl_state"]["members"]["second"], weights_of(trainer.second.module)) == 0
