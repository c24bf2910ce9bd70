"""nnUNetTrainerADMT: turns of the teachers, both perturbations, and what the student learns in them."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.self_training import self_training_loss
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerADMT"
AT_ONCE = {"earliest": 0.0, "competence": 0.0}


def admt(datasets, tmp_path, configuration="2d", options=None, **attributes):
    out, dataset = datasets(**(options or {}))
    return started(make_trainer(NAME, out, dataset, configuration, results=tmp_path, **AT_ONCE | attributes))


def halfway(trainer):
    trainer.iteration = trainer.total_steps // 2
    return trainer


def test_the_teacher_whose_turn_it_is_follows_the_student_and_the_other_one_rests(datasets, tmp_path):
    trainer = admt(datasets, tmp_path)
    trainer.train_step(next(trainer.dataloader_train))  # both are copies
    for teacher in (trainer.first, trainer.second):
        assert largest_difference(weights_of(teacher.module), weights_of(trainer.network)) == 0
    halfway(trainer)
    trainer.first.updates = trainer.second.updates = 1000
    for first_is_active in (True, False):
        trainer.turns.first = first_is_active
        trainer.turns._done = 0
        active, resting = (trainer.first, trainer.second)[:: 1 if first_is_active else -1]
        before = weights_of(active.module), weights_of(resting.module)
        trainer.train_step(next(trainer.dataloader_train))
        student = weights_of(trainer.network)
        expected = {k: 0.99 * before[0][k] + 0.01 * student[k] for k in student}
        assert largest_difference(expected, weights_of(active.module)) < 1e-6
        assert largest_difference(before[1], weights_of(resting.module)) == 0
    assert trainer.first.updates == trainer.second.updates == 1001


def test_after_the_copies_a_teacher_averages_from_anew(datasets, tmp_path):
    trainer = admt(datasets, tmp_path, copy_fraction=0.5, num_epochs=2, num_iterations_per_epoch=2)
    assert trainer.total_steps == 4
    for copies in (1, 1, 2):
        trainer.turns.first, trainer.turns._done = True, 0
        before = weights_of(trainer.first.module)
        trainer.train_step(next(trainer.dataloader_train))
        assert trainer.first.updates == copies
    expected = {k: (before[k] + v) / 2 for k, v in weights_of(trainer.network).items()}
    assert largest_difference(expected, weights_of(trainer.first.module)) < 1e-6


def test_before_the_start_no_pseudo_label_is_learned_and_both_teachers_follow(datasets, tmp_path):
    trainer = admt(datasets, tmp_path, earliest=0.3, competence=0.7)
    trainer.iteration = round(0.2 * trainer.total_steps)
    turns, trainer.first.updates, trainer.second.updates = trainer.turns.state_dict(), 1000, 1000
    before = weights_of(trainer.first.module)
    values = trainer.train_step(next(trainer.dataloader_train))
    assert values["pseudo"] == 0 and values["loss"] == values["labeled"] and trainer.turns.state_dict() == turns
    student = weights_of(trainer.network)
    expected = {k: 0.99 * before[k] + 0.01 * student[k] for k in student}
    for teacher in (trainer.first, trainer.second):
        assert largest_difference(expected, weights_of(teacher.module)) < 1e-6
    trainer.gate.opened_at = trainer.progress
    assert 0 < trainer.weights()["pseudo"] < 0.01  # the ramp begins
    trainer.train_step(next(trainer.dataloader_train))
    assert trainer.turns.state_dict() != turns and trainer.first.updates == trainer.second.updates + 1
    trainer.iteration = trainer.total_steps
    assert trainer.weights() == {"pseudo": 1.0}


@pytest.mark.parametrize("iteration, weight", [(0, 0.00674), (3000, 0.28650), (6000, 1.0), (15000, 1.0)])
def test_two_attributes_give_the_official_start(iteration, weight, datasets, tmp_path):
    length = {"num_epochs": 100, "num_iterations_per_epoch": 150}
    trainer = admt(datasets, tmp_path, ramp=0.4, **length)
    trainer.iteration = iteration
    assert trainer.weights()["pseudo"] == pytest.approx(weight, rel=1e-3)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("regions", [False, True])
def test_in_the_second_ones_turns_patches_and_labels_are_mixed_alike(
    regions, configuration, datasets, tmp_path, monkeypatch
):
    trainer = halfway(admt(datasets, tmp_path, configuration, {"regions": regions}, smallest_share=0.0))
    weak, strong = ([*trainer.view_names].index(name) for name in ("weak", "strong"))
    functions = ("centered_box", "copy_paste", "cutmix_sides", "outside_boxes")
    calls = {f: record_calls(monkeypatch, f"nnunet_ssl.patches.mixing.{f}") for f in functions}
    batch = next(trainer.dataloader_train)
    views = batch["unlabeled"].chunk(2, 1)
    seen = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    trainer.turns.first, trainer.turns._done = True, 0
    trainer.train_step(copy_batch(batch))
    assert not any(calls.values())
    assert torch.equal(seen[-1][len(batch["data"]) :], views[strong])
    trainer.turns.first, trainer.turns._done = False, 0
    trainer.train_step(copy_batch(batch))
    handle.remove()
    assert all(calls.values())
    mixed = seen[-1][len(batch["data"]) :]
    own, partner = mixed == views[weak], mixed == views[weak].roll(1, 0)
    assert (own | partner).all()


def test_the_term_is_the_loss_of_the_kept_labels_at_all_scales(datasets, tmp_path):
    trainer = halfway(admt(datasets, tmp_path, confidence=0.34))
    batch = next(trainer.dataloader_train)
    outputs = []
    handle = trainer.network.register_forward_hook(lambda *a: outputs.append([z.detach().clone() for z in a[2]]))
    values = trainer.train_step(copy_batch(batch))
    handle.remove()
    scales = [z[len(batch["data"]) :] for z in outputs[-1]]
    expected = sum(
        w * self_training_loss(z, trainer.labels, trainer.sure, batch["inside"]).item()
        for w, z in zip(trainer.scale_weights, scales)
        if w
    )
    assert values["pseudo"] == pytest.approx(expected, rel=1e-4) and trainer.sure.any()


def test_small_patches_are_not_mixed(datasets, tmp_path):
    trainer = admt(datasets, tmp_path, smallest_share=1.1)
    assert not trainer.cutmix
    (log,) = tmp_path.rglob("training_log*.txt")
    assert "no CutMix, see smallest_share" in log.read_text()


def test_turns_are_kept_in_checkpoints(datasets, tmp_path):
    trainer = admt(datasets, tmp_path)
    trainer.turns.first, trainer.turns._done, trainer.turns._length = False, 3, 77
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    other = make_trainer(NAME, *datasets(), results=tmp_path)
    other.initialize()
    other.load_checkpoint(str(tmp_path / "c.pth"))
    assert other.turns.state_dict() == {"first": False, "done": 3, "length": 77}


def test_single_patches_are_refused_only_where_they_are_mixed(datasets, tmp_path):
    with pytest.raises(UserError, match="mixes unlabeled patches with one another"):
        admt(datasets, tmp_path / "mixed", unlabeled_batch_size=1, smallest_share=0.0)
    trainer = halfway(admt(datasets, tmp_path / "not", unlabeled_batch_size=1, smallest_share=1.0))
    trainer.turns.first = False  # else the second one's turn mixes
    assert torch.isfinite(torch.as_tensor(trainer.train_step(next(trainer.dataloader_train))["pseudo"]))
