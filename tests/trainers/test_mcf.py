"""MCF's step, put together by hand."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.losses.fused_labels import fused_label
from nnunet_ssl.losses.region import region_loss
from nnunet_ssl.trainers.unlabeled import mcf
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of


def two_views(batch, teacher_view="weak"):
    """What is learned from and what is labeled, of the unlabeled patches; they differ, whatever was drawn for the batch."""
    if teacher_view == "student":
        return batch["unlabeled"], batch["unlabeled"]
    strong, weak = batch["unlabeled"].chunk(2, dim=1)
    weak.add_(0.1 * torch.randn_like(weak))
    return strong, weak


@pytest.mark.parametrize(("regions", "teacher_view"), [(False, "weak"), (True, "weak"), (False, "student")])
def test_a_step_by_hand(regions, teacher_view, datasets, tmp_path):
    """Each network with its own loss, optimizer and clipping; scores, labels and corrections written out."""
    out, dataset = datasets(regions=regions)
    settings = {"rampup_fraction": 0.0, "consistency_weight": 7.0, "teacher_view": teacher_view}
    trainer, other = (
        started(make_trainer("nnUNetTrainerMCF", out, dataset, results=tmp_path / x, **settings)) for x in "ab"
    )
    assert type(trainer.network) is not type(trainer.second.module)
    batch = next(trainer.dataloader_train)
    n, y = len(batch["data"]), batch["target"][0]
    strong, weak = two_views(batch, teacher_view)
    images = torch.cat((batch["data"], strong))
    activate = torch.sigmoid if regions else lambda z: torch.softmax(z, 1)
    networks = (other.network, other.second.module)
    scales = [network(images) for network in networks]
    p = [activate(h[0]) for h in scales]
    hard = [q[:n] >= 0.5 if regions else q[:n].argmax(1, keepdim=True) for q in p]
    channels = y.float() if regions else torch.cat([y == c for c in range(p[0].shape[1])], 1).float()
    foreground = slice(0 if regions else 1, None)
    score = []
    for q in p:
        a, b = q[:n, foreground], channels[:, foreground]
        dice = (2 * (a * b).sum((0, 2, 3)) + 1e-5) / ((a * a).sum((0, 2, 3)) + (b * b).sum((0, 2, 3)) + 1e-5)
        score.append(1 - dice.mean().item())
    worse = 1 if score[0] < score[1] else 0
    sharp = activate(10 * networks[1 - worse](weak)[0]).detach()
    inside = batch["inside"]
    values = trainer.train_step(copy_batch(batch))
    for i, (network, optimizer) in enumerate(zip(networks, (other.optimizer, other.second.optimizer))):
        error = (p[i][:n] - channels) ** 2
        error = error if regions else error.mean(1, keepdim=True)
        rectification = error[hard[0] != hard[1]].mean()
        mutual = (((p[i][n:] - sharp) ** 2).mean(1, keepdim=True))[inside].mean() if i == worse else torch.zeros(())
        labeled = other.loss([h[:n] for h in scales[i]], batch["target"])
        suffix = "_second" if i else ""
        assert values[f"labeled{suffix}"] == pytest.approx(labeled.item(), rel=1e-5)
        assert values[f"rectification{suffix}"] == pytest.approx(rectification.item(), rel=1e-4)
        assert values[f"mutual{suffix}"] == pytest.approx(mutual.item(), rel=1e-4)
        optimizer.zero_grad()
        (labeled + 0.5 * rectification + 7 * mutual).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    assert largest_difference(weights_of(other.network), weights_of(trainer.network)) < 1e-6
    assert largest_difference(weights_of(other.second.module), weights_of(trainer.second.module)) < 1e-6


@pytest.mark.parametrize("regions", [False, True])
def test_fusion_teaches_both_networks_the_label_of_their_fused_beliefs(regions, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(regions=regions)
    settings = {"fusion": True, "omega": 0.9, "rampup_fraction": 0.0}
    trainer = started(make_trainer("nnUNetTrainerMCF", out, dataset, results=tmp_path, **settings))
    names = ("asymptotic_weights", "beliefs", "believed_labels", "fused_beliefs", "uncertainty_ranks")
    calls = {name: record_calls(monkeypatch, f"nnunet_ssl.predictions.evidence.{name}") for name in names}
    assert trainer.weights()["mutual"] == trainer.weights()["mutual_second"] == 1.0
    batch = next(trainer.dataloader_train)
    strong, weak = two_views(batch)
    images = torch.cat((batch["data"], strong))
    with torch.no_grad():
        networks = (trainer.network, trainer.second.module)
        logits, teaching = [network(images)[0][-len(strong) :] for network in networks], [n(weak)[0] for n in networks]
    label, weights = fused_label(*teaching, 0.0, 0.9, trainer.activation, batch["inside"])
    form = {"batch": trainer.configuration_manager.batch_dice, "background": False}
    expected = [region_loss(z, label, weights, trainer.activation, **form) for z in logits]
    values = trainer.train_step(copy_batch(batch))
    assert all(calls.values())
    found = values["mutual"], values["mutual_second"]
    assert found == pytest.approx([loss.item() for loss in expected], rel=1e-4)


@pytest.mark.parametrize("is_ddp", [False, True])
def test_the_dice_of_fused_labels_is_that_of_all_processes(is_ddp, datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer("nnUNetTrainerMCF", *datasets(), results=tmp_path, fusion=True))
    asked = {}
    monkeypatch.setattr(mcf, "region_loss", lambda *_, **options: asked.update(options))
    logits = {"student": torch.zeros(1, 3, 4, 4), "second": torch.zeros(1, 3, 4, 4)}
    batch = SSLBatch(torch.zeros(1, 1, 4, 4), [], [], inside=torch.ones(1, 1, 4, 4, dtype=torch.bool))
    batch.logits = {name: [z] for name, z in logits.items()}
    trainer.is_ddp = is_ddp
    trainer.mutual_term(trainer.student, logits, torch.tensor(True), batch)
    assert asked["all_ranks"] is is_ddp and asked["batch"] is trainer.configuration_manager.batch_dice
