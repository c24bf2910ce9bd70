"""FilterMatch: entropies, pseudo targets, turns, the joint step and the shrinking pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.predictions.entropy_filter import case_entropy
from tests.golden.framework import record_calls
from tests.helpers.trainers import draw_unlabeled, hide_labels
from tests.helpers.training import copy_batch, copy_dataset, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerFilterMatch"


# --------------------------------------------------------------------------------------------------------- the trainer


def filter_match(datasets, tmp_path, configuration="2d", options=None, progress=0.75, **attributes):
    out, dataset = datasets(**(options or {}))
    trainer = started(make_trainer(NAME, out, dataset, configuration, results=tmp_path / "ours", **attributes))
    trainer.iteration = int(progress * trainer.num_epochs * trainer.num_iterations_per_epoch)
    draw_unlabeled(trainer)
    stock = make_trainer("nnUNetTrainer", out, dataset, configuration, results=tmp_path / "stock")
    stock.initialize()
    stock.network.load_state_dict(weights_of(trainer.network))
    stock.network.train()
    stock.lr_scheduler.step(0)
    return trainer, stock


def test_before_the_start_the_step_is_nnunets_bit_for_bit(datasets, tmp_path):
    trainer, stock = filter_match(datasets, tmp_path, progress=0.0)
    batch = next(trainer.dataloader_train)
    values = trainer.train_step(copy_batch(batch))
    stock.train_step(copy_batch({k: batch[k] for k in ("data", "target", "keys")}))
    assert values["pseudo"] == 0 and values["labeled"] > 0
    assert largest_difference(weights_of(trainer.network), weights_of(stock.network)) == 0


@pytest.mark.parametrize("options", [{}, {"regions": True, "ignore": True}], ids=str)
@pytest.mark.parametrize("progress, flips", [(0.2, []), (0.75, [-2])])
@pytest.mark.parametrize("joint", [True, False])
def test_from_the_start_the_step_is_nnunets_with_own_decisions_as_labels(
    joint, progress, flips, options, datasets, tmp_path, monkeypatch
):
    """nnU-Net's own loss gets the unlabeled patches as labeled ones, turned, with targets made by hand."""
    trainer, stock = filter_match(datasets, tmp_path, options=options, progress=progress, joint=joint, start=0.1)
    batch = next(trainer.dataloader_train)
    drawn = iter([0.1, 0.9])  # flips the first axis only, once flips have begun
    monkeypatch.setattr(np.random, "randint", lambda low, high: 3)
    monkeypatch.setattr(np.random, "rand", lambda: next(drawn))
    values = trainer.train_step(copy_batch(batch))

    def turned(x):
        x = x.rot90(3, (-2, -1))
        return x.flip(flips) if flips else x

    with torch.no_grad():
        scales = stock.network(batch["unlabeled"])
    targets = []
    for logits, target in zip(scales, batch["target"], strict=True):
        step = batch["inside"].shape[-1] // logits.shape[-1]
        inside = batch["inside"][..., ::step, ::step]
        label = (logits > 0) & inside if options else logits.argmax(1, keepdim=True) * inside
        if options:
            label = torch.cat((label, torch.zeros_like(label[:, :1])), 1)
        targets.append(torch.cat((target, turned(label).to(target.dtype))))
    images = torch.cat((batch["data"], turned(batch["unlabeled"])))
    if joint:
        expected = stock.train_step({"data": images, "target": targets})["loss"]
        assert values["joint"] == values["loss"] == pytest.approx(float(expected), rel=1e-6)
        assert largest_difference(weights_of(trainer.network), weights_of(stock.network)) < 1e-7
    else:  # each part with its own mean, and the labeled one at full weight
        with torch.no_grad():
            scales, count = stock.network(images), len(batch["data"])
            labeled = stock.loss([z[:count] for z in scales], [t[:count] for t in targets]).item()
            pseudo = stock.loss([z[count:] for z in scales], [t[count:] for t in targets]).item()
        assert values["labeled"] == pytest.approx(labeled, rel=1e-5)
        assert values["pseudo"] == pytest.approx(pseudo, rel=1e-5)
        assert values["loss"] == pytest.approx(labeled + pseudo, rel=1e-5)


def test_unlabeled_patches_come_in_when_every_class_is_found_or_at_a_given_share(datasets, tmp_path):
    trainer, _ = filter_match(datasets, tmp_path, progress=0.35)
    trainer.gate.counts.counts[0] = 1.0
    assert trainer.weights() == {"pseudo": 0.0}
    trainer.gate.look()
    assert trainer.gate.opened_at == pytest.approx(trainer.progress) and trainer.weights() == {"pseudo": 1.0}
    official, _ = filter_match(datasets, tmp_path, progress=0.2, start=20 / 300, joint=True)
    assert official.weights() == {"labeled": 0.0, "joint": 1.0}


def test_no_quarter_turn_where_voxels_or_patches_are_not_square(datasets, tmp_path):
    trainer, _ = filter_match(datasets, tmp_path, progress=0.2)
    square, long = (
        [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)],
        [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 4)],
    )
    found = [trainer._random_turn(square) for _ in range(50)]
    assert {turns for turns, _ in found} == {1, 2, 3} and all(flips == [] for _, flips in found)
    found = [trainer._random_turn(long) for _ in range(50)]
    assert {turns for turns, _ in found} == {0}
    assert {tuple(flips) for _, flips in found} == {(), (-1,), (-2,), (-2, -1)}
    trainer.configuration_manager.configuration["spacing"] = [1.0, 2.0]
    assert {trainer._random_turn(square)[0] for _ in range(20)} == {0}


def test_the_easiest_images_leave_the_pool_at_each_third(datasets, tmp_path, monkeypatch):
    trainer, _ = filter_match(datasets, tmp_path, num_epochs=6)
    names = [
        f"nnunet_ssl.predictions.entropy_filter.{f}" for f in ("case_entropy", "entropy_threshold", "is_uncertain")
    ]
    calls = {name: record_calls(monkeypatch, name) for name in names}
    sizes = []
    for trainer.current_epoch in range(6):
        trainer.after_epoch()
        sizes.append(len(trainer.unlabeled_pool))
    assert sizes == [3, 2, 2, 1, 1, 1]
    assert len(calls[names[0]]) == 3 + 2 and all(calls.values())
    assert set(map(str, next(trainer.dataloader_train)["unlabeled_keys"])) == set(trainer.unlabeled_pool)


def test_the_pool_left_is_in_the_checkpoint(datasets, tmp_path):
    trainer, _ = filter_match(datasets, tmp_path, num_epochs=3)
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    assert len(trainer.unlabeled_pool) == 2
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    other = make_trainer(NAME, *datasets(), results=tmp_path / "other", num_epochs=3)
    other.load_checkpoint(str(tmp_path / "c.pth"))
    other.on_train_start()
    assert other.unlabeled_pool == trainer.unlabeled_pool
    keys = {str(k) for _ in range(6) for k in next(other.dataloader_train)["unlabeled_keys"]}
    assert keys <= set(trainer.unlabeled_pool)


def test_the_filter_scores_images_with_hidden_labels_without_their_labels(datasets, tmp_path):
    out, dataset = datasets()
    out = copy_dataset(out, tmp_path / "data")
    folder, hidden = out / "nnUNet_preprocessed" / dataset, ["case_00", "case_01"]
    hide_labels(folder, hidden)
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path / "ours", num_epochs=3))
    draw_unlabeled(trainer)
    trainer.set_unlabeled_cases(hidden)
    expected = trainer.score_unlabeled(case_entropy)
    for file in folder.rglob("case_0[01]_seg.b2nd"):
        file.unlink()
    for file in folder.rglob("case_0[01].pkl"):
        file.unlink()
    assert trainer.score_unlabeled(case_entropy) == expected and sorted(expected) == hidden
    trainer.after_epoch()
    (kept,) = trainer.unlabeled_pool
    assert expected[kept] == max(expected.values())
    assert set(map(str, next(trainer.dataloader_train)["unlabeled_keys"])) == {kept}
