"""nnUNetTrainerDeepCoTraining: the published step by hand, and the rotation of SSL4MIS."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import nnunet_ssl.engine.optimization
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
    difference = []
    for i in (0, 1):
        with torch.no_grad():
            logs = F.log_softmax(networks[i](examples[1 - i])[0], 1)
        difference.append(-(p[1 - i] * logs).sum(1)[counted].mean().item())

    def entropy(q):
        return -(q * q.log()).sum(1)[batch["inside"][:, 0]].mean().item()

    a, b = (q[n:] for q in p)
    values = trainer.train_step(copy_batch(batch))
    assert [values[f"difference{x}"] for x in ("", "_second")] == pytest.approx(difference, rel=1e-3)
    agreement = entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2
    assert [values[f"agreement{x}"] for x in ("", "_second")] == pytest.approx([agreement] * 2, rel=1e-2)


@pytest.mark.parametrize("regions", [False, True])
def test_the_gradient_is_that_of_the_joint_loss(regions, datasets, tmp_path, monkeypatch):
    """In double precision, in which the sign that makes adversarial examples does not depend on rounding."""
    trainer = started(make_trainer(NAME, *datasets(regions=regions), results=tmp_path, step=0.5, rampup_fraction=0.0))
    batch = next(trainer.dataloader_train)
    batch |= {key: batch[key].double() for key in ("data", "unlabeled")}
    batch["inside"][0, ..., :5] = False
    n, images = len(batch["data"]), torch.cat((batch["data"], batch["unlabeled"]))
    networks = trainer.network.double(), trainer.second.module.double()
    found = []
    monkeypatch.setattr(
        nnunet_ssl.engine.optimization,
        "step_optimizers",
        lambda *_: found.extend([p.grad.clone() for p in m.parameters() if p.grad is not None] for m in networks),
    )
    trainer.train_step(copy_batch(batch))

    def split(z):  # probabilities of alternatives, and their logarithms
        return (F.logsigmoid(z), F.logsigmoid(-z)) if regions else (F.log_softmax(z, 1),)

    def cross(q, logs, where):
        values = sum(-(a * b) for a, b in zip(q, logs))
        values = values.mean(1) if regions else values.sum(1)
        return values[where[:, 0]].mean()

    outputs, examples = [network(images) for network in networks], []
    for network in networks:
        x = images.clone().requires_grad_()
        z = network(x)[0]
        hard = (z > 0).double() if regions else F.one_hot(z.argmax(1), z.shape[1]).movedim(-1, 1).double()
        loss = F.binary_cross_entropy_with_logits(z, hard) if regions else F.cross_entropy(z, hard)
        examples.append(images + 0.5 * torch.autograd.grad(loss, x)[0].sign())
    loss = sum(trainer.loss([h[:n] for h in scales], batch["target"]) for scales in outputs)
    first, second = (split(scales[0][n:]) for scales in outputs)
    p, q = ([a.exp() for a in logs] for logs in (first, second))
    mean = [(a + b) / 2 for a, b in zip(p, q)]
    middle = cross(mean, [m.log() for m in mean], batch["inside"])
    agreement = middle - (cross(p, first, batch["inside"]) + cross(q, second, batch["inside"])) / 2
    loss = loss + trainer.agreement_weight * agreement
    counted = torch.cat((torch.ones_like(batch["inside"][:1]).expand(n, *batch["inside"].shape[1:]), batch["inside"]))
    for i in (0, 1):
        target = [a.exp().detach() for a in split(outputs[i][0])]
        loss = loss + trainer.difference_weight * cross(target, split(networks[1 - i](examples[i])[0]), counted)
    for network, gradients in zip(networks, found, strict=True):
        parameters = [p for p in network.parameters() if p.grad is not None]
        expected = torch.autograd.grad(loss, parameters, retain_graph=True)
        largest = max(g.abs().max() for g in expected)
        assert max((a - b).abs().max() for a, b in zip(gradients, expected, strict=True)) < 1e-5 * largest


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


@pytest.mark.parametrize("axes", [None, (0,), (1,)])
def test_turns_are_refused_where_patches_must_not_be_mirrored(axes, datasets, tmp_path):
    for views in ("rotation", "adversarial"):
        trainer = make_trainer(NAME, *datasets(), results=tmp_path, views=views)
        *others, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = lambda others=others: (*others, axes)
        if views == "adversarial":
            trainer.check_supported()
        else:
            with pytest.raises(NotImplementedError, match="left and right, which differ there"):
                trainer.initialize()
