"""CML: the second decoder, both stages against steps computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers.training import copy_batch, largest_difference, make_trainer, seed_everything, started, weights_of


def make(datasets, tmp_path, configuration="2d", attributes=None, **options):
    out, dataset = datasets(**options)
    return started(
        make_trainer("nnUNetTrainerCML", out, dataset, configuration, results=tmp_path, **(attributes or {}))
    )


def drawn_masks(shape, seed):
    """True outside of the boxes that a step draws after this seed."""
    random = np.random.RandomState(seed)
    size = [int(s * 2 / 3) for s in shape]
    while True:
        mask = torch.ones(shape, dtype=torch.bool)
        starts = [random.randint(0, s - n + 1) for s, n in zip(shape, size)]
        mask[tuple(slice(a, a + n) for a, n in zip(starts, size))] = False
        yield mask


def at(mask, target):
    return F.interpolate(mask.float()[None, None], target.shape[2:], mode="nearest-exact")[0, 0].bool()


def forward(member, images):
    """Logits and the positive part of what comes out of the encoder's last stage."""
    features = []
    handle = member.module.encoder.stages[-1].register_forward_hook(lambda _, __, output: features.append(output))
    scales = member(images)
    handle.remove()
    return scales, features[0].clamp(min=0)


def discrepancy(a, b):
    a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (a, b))
    return 2 + (a * b.detach()).sum(1).mean() + (a.detach() * b).sum(1).mean()


def hand_step(trainer, loss):
    """One step of each optimizer as nnU-Net makes it."""
    loss.backward()
    for member in (trainer.student, trainer.second):
        torch.nn.utils.clip_grad_norm_(member.module.parameters(), 12)
        member.optimizer.step()


def assert_same_networks(trainer, other):
    assert largest_difference(weights_of(trainer.network), weights_of(other.network)) < 1e-6
    assert largest_difference(weights_of(trainer.second.module), weights_of(other.second.module)) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
def test_pretraining_is_nnunets_loss_on_the_mixed_halves(options, weight, datasets, tmp_path):
    attributes = {"discrepancy_weight": weight}
    trainer, other = (make(datasets, tmp_path / x, attributes=attributes, **options) for x in "ab")
    batch = next(trainer.dataloader_train)
    x, mask = batch["data"], next(drawn_masks(batch["data"].shape[2:], 5))
    mixed = torch.where(mask, x[:1], x[1:])
    targets = [torch.where(at(mask, t), t[:1], t[1:]) for t in batch["target"]]
    outputs = [forward(member, mixed) for member in (other.student, other.second)]
    losses = [other.loss(scales, targets) for scales, _ in outputs]
    different = discrepancy(*(h for _, h in outputs))
    hand_step(other, sum(losses) + weight * different)
    seed_everything(5)
    values = trainer.train_step(copy_batch(batch))
    assert [values["labeled"], values["labeled_second"]] == pytest.approx([v.item() for v in losses], rel=1e-5)
    assert values["discrepancy"] == pytest.approx(different.item(), rel=1e-5)
    assert values["pseudo"] == values["pseudo_second"] == 0
    assert_same_networks(trainer, other)


@pytest.mark.parametrize("options", [{}, {"ignore": True, "regions": True}], ids=str)
def test_a_step_by_hand(options, datasets, tmp_path):
    """The equation of the trainer's page, written out for two labeled and two unlabeled patches."""
    attributes = {"pretrain_fraction": 0.0, "competence": 0.0, "largest_component": False, "pseudo_weight": 0.5}
    trainer, other = (make(datasets, tmp_path / x, attributes=attributes, **options) for x in "ab")
    batch = next(trainer.dataloader_train)
    x, inside = batch["data"], batch["inside"]
    u, weak = batch["unlabeled"].chunk(2, dim=1)
    weak.add_(0.1 * torch.randn_like(weak))  # the views differ, whatever was drawn
    members = (other.student, other.second)
    masks = drawn_masks(x.shape[2:], 5)
    of_labeled, of_unlabeled = next(masks), next(masks)
    targets = [torch.where(at(of_labeled, t), t[:1], t[1:]) for t in batch["target"]]
    with torch.no_grad():
        q = [m(weak)[0] for m in members]
    q = [z >= 0 if options else z.argmax(1, keepdim=True) for z in q]
    inside = torch.where(of_unlabeled, inside[:1], inside[1:])
    pseudo = []
    for own, others in ((q[0], q[1]), (q[1], q[0])):
        label = torch.where(of_unlabeled, others[:1], own[1:]) * inside
        if options:
            label = torch.cat((label, torch.zeros_like(label[:, :1])), 1)  # nothing is ignored
        pseudo.append(
            [F.interpolate(label.float(), t.shape[2:], mode="nearest-exact").to(t.dtype) for t in batch["target"]]
        )
    outputs = [forward(m, torch.where(of_labeled, x[:1], x[1:])) for m in members]
    mixed = [forward(m, torch.where(of_unlabeled, u[:1], u[1:])) for m in members]
    labeled = [other.loss(scales, targets) for scales, _ in outputs]
    unlabeled = [other.loss(scales, target) for (scales, _), target in zip(mixed, pseudo)]
    different = discrepancy(*(h for _, h in outputs)) + discrepancy(*(h for _, h in mixed))
    hand_step(other, sum(labeled) + 0.5 * sum(unlabeled) + 0.4 * different)
    seed_everything(5)
    values = trainer.train_step(copy_batch(batch))
    assert [values["labeled"], values["labeled_second"]] == pytest.approx([v.item() for v in labeled], rel=1e-5)
    assert [values["pseudo"], values["pseudo_second"]] == pytest.approx([v.item() for v in unlabeled], rel=1e-5)
    assert values["discrepancy"] == pytest.approx(different.item(), rel=1e-5)
    assert_same_networks(trainer, other)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_passes_are_those_of_the_paper(configuration, datasets, tmp_path):
    trainer = make(
        datasets, tmp_path, configuration, {"num_epochs": 2, "num_iterations_per_epoch": 2, "competence": 0.0}
    )
    seen = {"student": [], "second": []}
    for member in (trainer.student, trainer.second):
        member.module.register_forward_pre_hook(
            lambda _, images, name=member.name: seen[name].append((len(images[0]), torch.is_grad_enabled()))
        )
    for _ in range(2):
        trainer.train_step(next(trainer.dataloader_train))
    # pre-training: one mix of two labeled patches; then labels of two patches, and one mix of each kind
    assert seen["student"] == seen["second"] == [(1, True), (2, False), (2, True)]
    assert trainer.weights() == {"pseudo": 1.0, "pseudo_second": 1.0, "discrepancy": 0.4}


def test_the_networks_differ_in_their_decoders_and_only_there(datasets, tmp_path):
    trainer = make(datasets, tmp_path)
    first, second = weights_of(trainer.network), weights_of(trainer.second.module)
    assert {k for k in first.keys() ^ second.keys() if ".transpconvs." not in k} == set()
    assert first.keys() != second.keys()
    biases = [v for k, v in second.items() if ".transpconvs." in k and k.endswith("bias")]
    assert biases and all(not b.any() for b in biases)  # nnU-Net's initialization


@pytest.mark.parametrize("largest", [True, False])
def test_small_parts_of_pseudo_labels_are_dropped_if_wanted(largest, datasets, tmp_path, monkeypatch):
    trainer = make(
        datasets, tmp_path, attributes={"pretrain_fraction": 0.0, "competence": 0.0, "largest_component": largest}
    )
    calls = []
    monkeypatch.setattr(
        "nnunet_ssl.trainers.unlabeled.cml.start_largest_components",
        lambda labels: calls.append(labels) or (lambda: labels),
    )
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    assert [len(c) for c in calls] == ([4] if largest else [])  # both networks at once
