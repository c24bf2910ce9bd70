"""Cross pseudo supervision: its losses, CutMix, and the options of its trainer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.losses.cross_pseudo import cross_pseudo_losses, pseudo_cross_entropy
from nnunet_ssl.patches.mixing import box_masks
from nnunet_ssl.predictions.hard_labels import hard_pseudo_label
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, seed_everything, started, weights_of

LN3 = math.log(3)


# --------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 1, 2)], ids=["1d", "2d", "3d"])
def test_labels_are_the_class_of_the_largest_logit(shape):
    logits = torch.zeros(2, 3, *shape)
    logits[0, 2], logits[1, 1] = 1, 5
    label = hard_pseudo_label(logits)
    assert label.shape == (2, *shape) and label.dtype == torch.int64
    assert (label[0] == 2).all() and (label[1] == 1).all()


def test_labels_of_regions_are_decisions_per_channel():
    logits = torch.tensor([[[[0.1, -0.1]], [[3.0, 0.0]]]], requires_grad=True)
    label = hard_pseudo_label(logits, "sigmoid")
    assert label.tolist() == [[[[True, False]], [[True, False]]]]
    assert not hard_pseudo_label(logits).requires_grad


def test_cross_entropy_by_hand():
    # two voxels with softmax (3/4, 1/4) and (1/2, 1/2)
    logits = torch.tensor([[[[LN3, 0.0]], [[0.0, 0.0]]]])
    label = torch.tensor([[[1, 0]]])
    assert pseudo_cross_entropy(logits, label).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    mask = torch.tensor([[[[True, False]]]])
    assert pseudo_cross_entropy(logits, label, mask=mask).item() == pytest.approx(math.log(4))
    assert pseudo_cross_entropy(logits, label, mask=torch.zeros_like(mask)).item() == 0


def test_binary_cross_entropy_of_regions_by_hand():
    # sigmoid(ln 3) = 3/4: label 1 costs ln(4/3), label 0 costs ln 4
    logits = torch.tensor([[[[LN3, LN3]], [[-LN3, 0.0]]]])
    label = torch.tensor([[[[True, False]], [[False, True]]]])
    expected = (math.log(4 / 3) + math.log(4) + math.log(4 / 3) + math.log(2)) / 4
    assert pseudo_cross_entropy(logits, label, "sigmoid").item() == pytest.approx(expected)
    mask = torch.tensor([[[[True, False]]]])
    assert pseudo_cross_entropy(logits, label, "sigmoid", mask).item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("spatial", [(5, 4), (3, 4, 2)])
def test_each_network_learns_the_other_and_gets_no_gradient_from_its_loss(activation, spatial):
    torch.manual_seed(0)
    first, second = (torch.randn(2, 3, *spatial, requires_grad=True) for _ in range(2))
    losses = cross_pseudo_losses(first, second, activation)
    assert torch.equal(losses[0], pseudo_cross_entropy(first, hard_pseudo_label(second, activation), activation))
    assert torch.equal(losses[1], pseudo_cross_entropy(second, hard_pseudo_label(first, activation), activation))
    (gradient,) = torch.autograd.grad(losses[0], first, retain_graph=True)
    assert gradient.abs().max() > 0
    assert torch.autograd.grad(losses[0], second, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses[1], first, allow_unused=True) == (None,)


def test_gradient_is_softmax_minus_label():
    torch.manual_seed(0)
    logits, label = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (1, 2, 3))
    (gradient,) = torch.autograd.grad(pseudo_cross_entropy(logits, label), logits)
    expected = logits.softmax(1) - torch.nn.functional.one_hot(label, 4).movedim(-1, 1)
    assert torch.allclose(gradient, expected / 6)


def test_half_precision_logits_do_not_overflow():
    logits = torch.full((1, 2, 300, 300), 40.0, dtype=torch.float16)
    logits[:, 1] = -40
    loss = pseudo_cross_entropy(logits, torch.ones(1, 300, 300, dtype=torch.int64))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(80)


def test_what_does_not_fit_is_refused():
    logits = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="activation"):
        hard_pseudo_label(logits, "tanh")
    with pytest.raises(ValueError, match=r"label must have shape \(2, 4, 4\)"):
        pseudo_cross_entropy(logits, torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="mask must be bool"):
        pseudo_cross_entropy(logits, torch.zeros(2, 4, 4), mask=torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="one shape"):
        cross_pseudo_losses(logits, logits[:1])


# ------------------------------------------------------------------------------------------------------------- CutMix


@pytest.mark.parametrize("shape", [(40, 30), (24, 30, 20)])
def test_one_box_covers_its_share(shape):
    masks = box_masks(200, shape, (0.4, 0.4), 1, np.random.RandomState(0))
    assert masks.shape == (200, 1, *shape) and masks.dtype == np.float32 and set(np.unique(masks)) == {0, 1}
    assert abs((1 - masks).mean() - 0.4) < 0.02
    for mask in masks[:20, 0]:
        inside = np.argwhere(mask == 0)
        sides = inside.max(0) - inside.min(0) + 1
        assert len(inside) == np.prod(sides)  # a full box


def test_boxes_that_overlap_cancel():
    class Full:
        """Every box is the whole image."""

        def uniform(self, low, high, size):
            return np.full(size, high if (low, high) != (0.0, 1.0) else 0.5)

    # two boxes with the side 1/sqrt(2) of 10 voxels, both in the middle
    assert (box_masks(1, (10, 10), (1.0, 1.0), 2, Full()) == 1).all()
    mask = box_masks(1, (10, 10), (1.0, 1.0), 3, Full())[0, 0]  # the side is 6, at 2
    expected = np.ones((10, 10))
    expected[2:8, 2:8] = 0
    assert np.array_equal(mask, expected)


def test_boxes_are_drawn_from_the_source_given():
    first, again = (box_masks(2, (9, 8), random=np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(first, again)
    np.random.seed(3)
    assert np.array_equal(first, box_masks(2, (9, 8)))
    for share, boxes in [((0.0, 0.5), 3), ((0.5, 0.2), 3), ((0.2, 1.1), 3), ((0.2, 0.5), 0)]:
        with pytest.raises(ValueError, match="share"):
            box_masks(1, (4, 4), share, boxes)


# -------------------------------------------------------------------------------------------------------- the trainer


def cps(datasets, tmp_path, configuration="2d", options=None, **attributes):
    out, dataset = datasets(**(options or {}))
    return started(make_trainer("nnUNetTrainerCPS", out, dataset, configuration, results=tmp_path, **attributes))


def test_the_networks_differ_from_the_start(datasets, tmp_path):
    trainer = cps(datasets, tmp_path)
    image = torch.randn(1, 1, 24, 24)
    assert not torch.allclose(trainer.student(image)[0], trainer.second(image)[0], atol=0.01)


def test_the_step_is_that_of_two_separate_networks(datasets, tmp_path):
    """By hand, each network with its own loss and optimizer."""
    trainer = cps(datasets, tmp_path, consistency_weight=3.0, rampup_fraction=0.0)
    networks = [make_trainer("nnUNetTrainer", *datasets(), results=tmp_path / "stock") for _ in range(2)]
    for stock, module in zip(networks, (trainer.network, trainer.second.module), strict=True):
        stock.initialize()
        stock.network.load_state_dict(weights_of(module))
        stock.network.train()
        stock.lr_scheduler.step(0)
    batch = next(trainer.dataloader_train)
    trainer.train_step(copy_batch(batch))
    labels = [n.network(batch["unlabeled"])[0].argmax(1) for n in networks]
    for stock, label in zip(networks, labels[::-1], strict=True):
        supervised = stock.loss(stock.network(batch["data"]), batch["target"])
        pseudo = torch.nn.functional.cross_entropy(stock.network(batch["unlabeled"])[0], label, reduction="none")
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
    seen = []
    forward = trainer.student.network.forward
    monkeypatch.setattr(trainer.network, "forward", lambda x: seen.append(x.clone()) or forward(x))
    calls = {f: record_calls(monkeypatch, f"nnunet_ssl.patches.mixing.{f}") for f in ("box_masks", "copy_paste")}
    values = trainer.train_step(copy_batch(batch))
    assert all(calls.values()) and np.isfinite(values["loss"]) and values["cps_first"] > 0 < values["cps_second"]
    assert len(seen) == 2 and torch.equal(seen[0], batch["unlabeled"])
    labeled, mixed = seen[1][: len(batch["data"])], seen[1][len(batch["data"]) :]
    assert torch.equal(labeled, batch["data"])
    own, partner = mixed == batch["unlabeled"], mixed == batch["unlabeled"].roll(1, 0)
    assert (own | partner).all() and not own.all() and not partner.all()
    assert all(p.grad is not None for p in trainer.network.encoder.parameters())


def test_on_labeled_is_one_mean_over_all_patches(datasets, tmp_path):
    trainer = cps(datasets, tmp_path, on_labeled=True)
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
