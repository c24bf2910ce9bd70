"""nnUNetTrainerBCP: both stages against steps computed by hand, the switch between them, ignored voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers.training import copy_batch, largest_difference, make_trainer, seed_everything, started, weights_of

BCP = "nnUNetTrainerBCP"


def make(datasets, tmp_path, configuration="2d", seed=0, attributes=None, **options):
    out, dataset = datasets(**options)
    return started(make_trainer(BCP, out, dataset, configuration, results=tmp_path, **(attributes or {})), seed)


def drawn_mask(shape, seed):
    """True outside of the box that a step draws after this seed."""
    random = np.random.RandomState(seed)
    mask = torch.ones(shape, dtype=torch.bool)
    size = [int(s * 2 / 3) for s in shape]
    starts = [random.randint(0, s - n + 1) for s, n in zip(shape, size)]
    mask[tuple(slice(a, a + n) for a, n in zip(starts, size))] = False
    return mask


def hand_step(trainer, loss):
    """One step of SGD as nnU-Net makes it; the weights after it."""
    trainer.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
    trainer.optimizer.step()
    return weights_of(trainer.network)


def nearest(mask, size):
    return F.interpolate(mask.float()[None, None], size, mode="nearest-exact")[0, 0].bool()


@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
def test_pretraining_is_nnunets_loss_on_pasted_labeled_patches(options, datasets, tmp_path):
    trainer, other = (make(datasets, tmp_path / x, **options) for x in "ab")
    batch = next(trainer.dataloader_train)
    images, (first, second) = batch["data"], (0, 1)
    mask = drawn_mask(images.shape[2:], 5)
    mixed = torch.stack([torch.where(mask, images[a], images[b]) for a, b in ((first, second), (second, first))])
    targets = [
        torch.stack([torch.where(nearest(mask, t.shape[2:]), t[a], t[b]) for a, b in ((0, 1), (1, 0))])
        for t in batch["target"]
    ]
    expected = other.loss(other.network(mixed), targets)
    expected_weights = hand_step(other, expected)
    seed_everything(5)
    values = trainer.train_step(copy_batch(batch))
    assert values["loss"] == values["labeled"] == pytest.approx(expected.item(), rel=1e-6)
    assert values["pseudo"] == 0
    assert largest_difference(expected_weights, weights_of(trainer.network)) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_mixing_step_by_hand(weight, datasets, tmp_path):
    """Two labeled and two unlabeled patches, classes, no deep supervision: the equation of the paper, written out."""
    attributes = {
        "pseudo_weight": weight,
        "enable_deep_supervision": False,
        "pretrain_fraction": 0.0,
        "competence": 0.0,
    }
    trainer, other = (make(datasets, tmp_path / x, attributes=attributes) for x in "ab")
    trainer.largest_component = other.largest_component = False
    batch = next(trainer.dataloader_train)
    x, y, inside = batch["data"], batch["target"][:, 0].long(), batch["inside"][:, 0]
    u, weak = batch["unlabeled"].chunk(2, dim=1)
    mask = drawn_mask(x.shape[2:], 5)
    with torch.no_grad():
        q = other.network(weak).argmax(1)

    def l(logits, labels, counted):  # noqa: E743 - the paper's name
        p = torch.softmax(logits, 0)
        ce = -p.log().gather(0, labels[None])[0][counted].sum() / counted.sum()
        dice = []
        for c in range(1, len(p)):
            a, b = p[c][counted], (labels == c)[counted].float()
            dice.append((2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))
        return 0.5 * (ce + 1 - torch.stack(dice).mean())

    out1 = other.network(torch.where(mask, x[0], u[0])[None])[0]
    out2 = other.network(torch.where(mask, u[1], x[1])[None])[0]
    labeled = l(out1, y[0], mask) + l(out2, y[1], ~mask)
    pseudo = l(out1, q[0], ~mask & inside[0]) + l(out2, q[1], mask & inside[1])
    expected_weights = hand_step(other, labeled + weight * pseudo)
    seed_everything(5)
    values = trainer.train_step(copy_batch(batch))
    assert values["labeled"] == pytest.approx(float(labeled), rel=1e-5)
    assert values["pseudo"] == pytest.approx(float(pseudo), rel=1e-5)
    assert largest_difference(expected_weights, weights_of(trainer.network)) < 1e-6


def test_the_teacher_starts_as_a_copy_and_then_averages_without_warm_up(datasets, tmp_path):
    trainer = make(datasets, tmp_path, attributes={"num_epochs": 2, "num_iterations_per_epoch": 4, "competence": 0.0})
    stages = []
    for _ in range(5):
        before = weights_of(trainer.teacher.module)
        stages.append(trainer.pretraining)
        trainer.train_step(next(trainer.dataloader_train))
        student, teacher = weights_of(trainer.network), weights_of(trainer.teacher.module)
        decay = 0.0 if stages[-1] else 0.99
        expected = {k: decay * before[k] + (1 - decay) * student[k] for k in student}
        assert largest_difference(expected, teacher) < 1e-6
    assert stages == [True, True, False, False, False]
    assert trainer.weights() == {"pseudo": 0.5}


@pytest.mark.parametrize("options", [{"ignore": True}, {"ignore": True, "regions": True}], ids=str)
def test_ignored_voxels_do_not_count_in_either_stage(options, datasets, tmp_path):
    trainer = make(datasets, tmp_path, **options)
    batch = next(trainer.dataloader_train)
    for target in batch["target"]:
        if options.get("regions"):
            target[:, -1] = 1
        else:
            target[:] = trainer.label_manager.ignore_label
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
    values = trainer.train_step(batch)
    assert values["labeled"] == 0 and values["pseudo"] > 0


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_one_labeled_patch_is_used_in_both_directions(configuration, datasets, tmp_path):
    trainer = make(
        datasets,
        tmp_path,
        configuration,
        attributes={"unlabeled_batch_size": 1, "pretrain_fraction": 0.0, "competence": 0.0},
    )
    batch = next(trainer.dataloader_train)
    batch["data"] = batch["data"][:1]
    batch["target"] = [t[:1] for t in batch["target"]]
    shapes = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: shapes.append(images[0].shape[0]))
    values = trainer.train_step(batch)
    handle.remove()
    assert shapes == [2] and values["labeled"] > 0 and values["pseudo"] > 0
