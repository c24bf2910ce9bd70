"""Losses for partial labels: what they must keep (methods/partial_label.md, section 7), and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_ssl.losses.candidate_sets import (
    candidate_cross_entropy,
    excluded_voxels,
    exclusion_loss,
    merged_probabilities,
    partial_dice_loss,
    partial_label_loss,
    partial_region_cross_entropy,
    partial_region_dice_loss,
    partial_region_loss,
    summed_logits,
)
from nnunet_ssl.predictions.candidates import annotation_matrix

SHAPES = {"2d": (6, 5), "3d": (4, 3, 5)}
CLASSES = 3

each_dimension = pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES.keys())
each_dice = pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "sample"])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(batch, spatial, highest, seed=1):
    return torch.randint(0, highest + 1, (batch, 1, *spatial), generator=torch.Generator().manual_seed(seed))


def matrix(*sets):
    return annotation_matrix(sets, CLASSES)


def gradient(loss, *logits):
    return torch.autograd.grad(loss, logits)


# ------------------------------------------------------------------------ with everything annotated this is nnU-Net's loss


def nnunets_loss(batch_dice, ignore_label=None):
    options = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(options, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


def without_ignore(target, ignore_label):
    if ignore_label is None:
        return target, None
    mask = target != ignore_label
    return torch.where(mask, target, 0), mask


@each_dimension
@each_dice
@pytest.mark.parametrize("ignore_label", [None, CLASSES + 1], ids=["", "ignore"])
def test_all_annotated_is_nnunets_cross_entropy_and_dice(spatial, batch_dice, ignore_label):
    logits = drawn(3, CLASSES + 1, *spatial).requires_grad_()
    target = labels(3, spatial, ignore_label or CLASSES)
    everything = torch.ones(3, CLASSES, dtype=torch.bool)
    dense, mask = without_ignore(target, ignore_label)
    ours = partial_label_loss(logits, dense, everything, mask, batch_dice=batch_dice)
    theirs = nnunets_loss(batch_dice, ignore_label)(logits, target)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-7)
    # nnU-Net's Dice adds up in float32
    torch.testing.assert_close(gradient(ours, logits)[0], gradient(theirs, logits)[0], rtol=0, atol=1e-8)


@each_dice
def test_all_annotated_is_nnunets_loss_under_deep_supervision(batch_dice):
    shapes = [(8, 8), (4, 4), (2, 2)]
    scales = [drawn(2, CLASSES + 1, *s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    targets = [labels(2, s, CLASSES, seed=i) for i, s in enumerate(shapes)]
    weights = [2 / 3, 1 / 3, 0]
    theirs = DeepSupervisionWrapper(nnunets_loss(batch_dice), weights)(scales, targets)
    everything = torch.ones(2, CLASSES, dtype=torch.bool)
    ours = sum(
        w * partial_label_loss(h, t, everything, batch_dice=batch_dice) for w, h, t in zip(weights, scales, targets)
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-7)
    for mine, nnunets in zip(gradient(ours, *scales[:2]), gradient(theirs, *scales[:2])):
        torch.testing.assert_close(mine, nnunets, rtol=0, atol=1e-8)


@each_dimension
@each_dice
@pytest.mark.parametrize("ignore", [False, True], ids=["", "ignore"])
def test_all_regions_annotated_is_nnunets_binary_cross_entropy_and_dice(spatial, batch_dice, ignore):
    logits = drawn(3, 2, *spatial).requires_grad_()
    target = (drawn(3, 2 + ignore, *spatial, seed=5) > 0.3).float()
    everything = torch.ones(3, 2, dtype=torch.bool)
    mask = target[:, 2:] == 0 if ignore else None
    options = {"batch_dice": batch_dice, "do_bg": True, "smooth": 1e-5, "ddp": False}
    nnunets = DC_and_BCE_loss({}, options, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
    theirs = nnunets(logits, target)
    ours = partial_region_loss(logits, target[:, :2], everything, mask, batch_dice=batch_dice)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)  # theirs is float32 with a mask
    torch.testing.assert_close(gradient(ours, logits)[0], gradient(theirs, logits)[0], rtol=0, atol=1e-8)


# -------------------------------------------------------------------------------------------------------- invariances


@each_dimension
@each_dice
def test_which_of_the_hidden_classes_a_channel_stands_for_makes_no_difference(spatial, batch_dice):
    logits = drawn(2, CLASSES + 1, *spatial)
    target = labels(2, spatial, CLASSES)
    target = torch.where(target == 2, target, 0)  # class 2 alone is annotated, in both cases
    annotated = matrix([2], [2])
    expected = partial_label_loss(logits, target, annotated, batch_dice=batch_dice, exclusion_weight=0.0)
    for order in ([1, 0, 2, 3], [3, 1, 2, 0], [1, 3, 2, 0]):
        found = partial_label_loss(logits[:, order], target, annotated, batch_dice=batch_dice)
        assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    moved = partial_label_loss(logits[:, [0, 2, 1, 3]], target, annotated, batch_dice=batch_dice)
    assert abs(moved.item() - expected.item()) > 1e-3  # the annotated class is not one of them


def test_adding_a_constant_to_all_logits_changes_nothing_but_in_the_official_sum_of_logits():
    logits, target, annotated = drawn(2, 4, 5, 5), labels(2, (5, 5), 1), matrix([1], [1])
    for option, same in ((False, True), (True, False)):
        first, second = (
            partial_label_loss(z, target, annotated, exclusion_weight=2.0, sum_logits=option)
            for z in (logits, logits + 3)
        )
        assert (abs(first.item() - second.item()) < 1e-10) is same


@each_dice
def test_the_dice_reaches_channels_that_are_not_annotated_only_through_the_softmax(batch_dice):
    logits = drawn(2, 4, 5, 5).requires_grad_()
    target, annotated = labels(2, (5, 5), 1), matrix([1], [1])
    (found,) = gradient(partial_dice_loss(logits, target, annotated, batch=batch_dice), logits)
    p = torch.softmax(logits.detach(), 1)
    # by hand, from the Dice of class 1 alone: dL/dp_1, then dp_1/dz_c = p_1 ([c = 1] - p_c)
    y = (target[:, 0] == 1).double()
    axes = (0, 1, 2) if batch_dice else (1, 2)
    top = 2 * (p[:, 1] * y).sum(axes, keepdim=True) + 1e-5
    bottom = (p[:, 1] + y).sum(axes, keepdim=True) + 1e-5
    wrt_p = -(2 * y / bottom - top / bottom**2) / (1 if batch_dice else 2)
    for c in range(4):
        expected = wrt_p * p[:, 1] * (float(c == 1) - p[:, c])
        torch.testing.assert_close(found[:, c], expected)


def test_a_class_gets_no_dice_from_a_case_that_does_not_annotate_it():
    logits, target = drawn(2, 4, 5, 5), labels(2, (5, 5), 3)
    target[1] = torch.where(target[1] == 3, 3, 0)
    mixed = partial_dice_loss(logits, target, matrix([1, 2, 3], [3]), batch=True)
    p, y = torch.softmax(logits, 1), target[:, 0]

    def dice(c, cases):
        overlap = sum((p[b, c] * (y[b] == c)).sum() for b in cases)
        total = sum(p[b, c].sum() + (y[b] == c).sum() for b in cases)
        return (2 * overlap + 1e-5) / (total + 1e-5)

    assert mixed.item() == pytest.approx(-(dice(1, [0]) + dice(2, [0]) + dice(3, [0, 1])).item() / 3, abs=1e-12)
    pairs = partial_dice_loss(logits, target, matrix([1, 2, 3], [3]), batch=False)
    by_pair = [dice(1, [0]), dice(2, [0]), dice(3, [0]), dice(3, [1])]
    assert pairs.item() == pytest.approx(-sum(by_pair).item() / 4, abs=1e-12)


# ------------------------------------------------------------------------------------------------------ numbers by hand


def one_voxel(*p):
    """Logits `(1, C, 1, 1)` of given probabilities."""
    return torch.log(torch.tensor(p, dtype=torch.float64)).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    "annotated, label, probability",
    [
        ([], 0, 1.0),  # nothing annotated: a stored 0 says nothing
        ([1], 0, 0.2 + 0.1 + 0.3),
        ([1, 3], 0, 0.2 + 0.1),
        ([1, 2, 3], 0, 0.2),
        ([1], 1, 0.4),
        ([1, 2, 3], 3, 0.3),
    ],
)
def test_cross_entropy_of_one_voxel(annotated, label, probability):
    logits = one_voxel(0.2, 0.4, 0.1, 0.3).requires_grad_()
    loss = candidate_cross_entropy(logits, torch.tensor(label).view(1, 1, 1, 1), matrix(annotated))
    assert loss.item() == pytest.approx(-math.log(probability), abs=1e-12)
    (found,) = gradient(loss, logits)
    candidates = {label} if label else {0, 1, 2, 3} - set(annotated)
    for c, p in enumerate((0.2, 0.4, 0.1, 0.3)):
        expected = p - (p / probability if c in candidates else 0)  # p (1 - 1/q) < 0 inside the set
        assert found[0, c].item() == pytest.approx(expected, abs=1e-12)


def test_pseudo_labels_replace_what_a_stored_zero_can_mean_and_nothing_else():
    logits = one_voxel(0.2, 0.4, 0.1, 0.3).expand(1, 4, 1, 4)
    target = torch.tensor([0, 0, 0, 1]).view(1, 1, 1, 4)
    pseudo = torch.tensor([-1, 0, 2, 2]).view(1, 1, 1, 4)
    loss = candidate_cross_entropy(logits, target, matrix([1]), pseudo=pseudo)
    expected = -(math.log(0.6) + math.log(0.2) + math.log(0.1) + math.log(0.4)) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="pseudo labels"):
        partial_label_loss(logits, target, matrix([1]), pseudo=pseudo, sum_logits=True)


def test_ignored_voxels_count_nowhere_and_a_patch_of_them_is_zero():
    logits = drawn(2, 4, 5, 5).requires_grad_()
    target, annotated = labels(2, (5, 5), 1), matrix([1], [1])
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    loss = partial_label_loss(logits, target, annotated, mask, batch_dice=True)
    assert loss.item() == pytest.approx(-1)  # Dice of two empty sets, as nnU-Net has it
    assert gradient(loss, logits)[0].abs().max() == 0
    mask[:, :, :3] = True
    changed = logits.detach().clone()
    changed[:, :, 3:] = 7.0
    first, second = (partial_label_loss(z, target, annotated, mask, exclusion_weight=2.0) for z in (logits, changed))
    assert first.item() == pytest.approx(second.item(), abs=1e-12)


def test_a_batch_in_which_nothing_is_annotated_has_no_loss_and_no_gradient():
    logits = drawn(2, 4, 5, 5).requires_grad_()
    target = torch.zeros(2, 1, 5, 5, dtype=torch.long)
    loss = partial_label_loss(logits, target, matrix([], []), batch_dice=True)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient(loss, logits)[0].abs().max() < 1e-12


def test_half_precision_logits_give_finite_losses_and_gradients():
    logits = (60 * drawn(2, 4, 5, 5)).half().requires_grad_()
    loss = partial_label_loss(logits, labels(2, (5, 5), 1), matrix([1], [1]), exclusion_weight=2.0)
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, logits)[0]).all()


def test_what_excludes_what():
    target = torch.tensor([0, 1, 3]).view(1, 1, 1, 3)
    found = excluded_voxels(target, matrix([1, 3]))[0, :, 0]
    assert found.tolist() == [[0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]]  # background, 1, 2 (not annotated), 3
    away = one_voxel(1 - 3e-9, 1e-9, 1e-9, 1e-9).expand(1, 4, 1, 3)
    assert exclusion_loss(away, target, matrix([1, 3])).item() < 1e-4
    wrong = one_voxel(1e-9, 1e-9, 1 - 3e-9, 1e-9).expand(1, 4, 1, 3)  # the hidden organ over both annotated ones
    assert exclusion_loss(wrong, target, matrix([1, 3])).item() == pytest.approx((2 * 2 / 5) / 3, abs=1e-4)


def test_merged_probabilities_add_up_and_summed_logits_are_no_probabilities():
    logits = drawn(2, 4, 3, 3)
    annotated = matrix([1], [1, 2, 3])
    q = merged_probabilities(torch.softmax(logits, 1), annotated)
    torch.testing.assert_close(q.sum(1), torch.ones(2, 3, 3, dtype=torch.float64))
    assert q[0, 2:].abs().max() == 0
    torch.testing.assert_close(q[1], torch.softmax(logits, 1)[1])
    merged = summed_logits(logits, annotated)
    torch.testing.assert_close(merged[0, 0], logits[0, [0, 2, 3]].sum(0))
    assert torch.isneginf(merged[0, 2:]).all()
    torch.testing.assert_close(merged[1], logits[1])


# ------------------------------------------------------------------------------------------------------------- regions


@each_dice
def test_regions_that_are_not_valid_get_no_gradient_but_where_a_label_proves_them(batch_dice):
    logits = drawn(2, 3, 4, 4).requires_grad_()
    target = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    target[:, :, :2] = True
    valid = torch.tensor([[True, False, False], [True, True, False]])
    for proven in (False, True):
        loss = partial_region_loss(logits, target, valid, batch_dice=batch_dice, proven=proven)
        (found,) = gradient(loss, logits)
        assert (found[0, 0] != 0).all() and (found[1, :2] != 0).all()
        for b, r in ((0, 1), (0, 2), (1, 2)):
            assert (found[b, r, 2:] == 0).all()
            assert (found[b, r, :2] < 0).all() if proven else (found[b, r, :2] == 0).all()


def test_region_sums_are_over_pairs_and_means_over_what_counts():
    logits = torch.zeros(2, 2, 1, 4, dtype=torch.float64)  # a cross entropy of log 2 everywhere, s = 1/2
    target = torch.tensor([1, 1, 0, 0]).view(1, 1, 1, 4).expand(2, 2, 1, 4)
    valid = torch.tensor([[True, False], [True, False]])
    options = {"proven": False}
    assert partial_region_cross_entropy(logits, target, valid, **options).item() == pytest.approx(math.log(2))
    total = partial_region_cross_entropy(logits, target, valid, reduction="sum", **options)
    assert total.item() == pytest.approx(2 * math.log(2))
    dice = 2 * 1 / (2 + 2)
    for batch, pairs in ((True, 1), (False, 2)):
        loss = partial_region_dice_loss(logits, target, valid, batch=batch, reduction="sum")
        assert loss.item() == pytest.approx(-pairs * dice)
        assert partial_region_dice_loss(logits, target, valid, batch=batch).item() == pytest.approx(-dice, abs=1e-5)
    nothing = torch.zeros_like(valid)
    for reduction in ("mean", "sum"):
        assert partial_region_loss(logits, target, nothing, reduction=reduction, proven=False).item() == 0


def test_proven_voxels_weigh_like_voxels_also_where_nothing_is_valid():
    logits, target = torch.zeros(1, 2, 1, 4, dtype=torch.float64), torch.zeros(1, 2, 1, 4)
    target[0, 0, 0, 0] = 1  # a cross entropy of log 2 in one of four voxels
    for valid, expected in (([[False, False]], 0.25), ([[False, True]], 1.25)):
        for mask, scale in ((None, 1), (torch.ones(1, 1, 1, 4, dtype=torch.bool), 2)):
            loss = partial_region_cross_entropy(logits, target, torch.tensor(valid), mask)
            assert loss.item() == pytest.approx(scale * expected * math.log(2))


# ------------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize("kind", ["classes", "regions", "exclusion"])
def test_batch_dice_over_processes_is_that_of_the_whole_batch(kind, monkeypatch):
    """What each of two processes would gather is put together here."""
    regions = kind == "regions"
    logits, channels = drawn(4, 4, 5, 5), 4 if regions else 1
    target = (drawn(4, 4, 5, 5, seed=2) > 0.5).double() if regions else labels(4, (5, 5), 3)
    annotated = torch.rand(4, 4 if regions else 3, generator=torch.Generator().manual_seed(3)) < 0.5
    annotated[:2, 1], annotated[2:, 1] = False, True  # a class that one process does not see
    assert target.shape[1] == channels
    dice = {"classes": partial_dice_loss, "regions": partial_region_dice_loss, "exclusion": exclusion_loss}[kind]
    whole = dice(logits, target, annotated, batch=True)
    halves = [slice(0, 2), slice(2, 4)]
    sent = []

    class Gather:
        @staticmethod
        def apply(sums):
            sent.append(sums)
            return torch.stack(sent)

    monkeypatch.setattr("nnunet_ssl.losses.candidate_sets.AllGatherGrad", Gather)
    for half in halves:
        found = dice(logits[half], target[half], annotated[half], batch=True, all_ranks=True)
    assert found.item() == pytest.approx(whole.item(), abs=1e-12)


def test_both_dice_of_the_loss_are_those_of_all_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "nnunet_ssl.losses.candidate_sets.AllGatherGrad.apply", lambda sums: asked.append(sums) or sums[None]
    )
    logits, target = drawn(2, 4, 5, 5), labels(2, (5, 5), 3)
    options = {"batch_dice": True, "exclusion_weight": 2.0, "all_ranks": True}
    partial_label_loss(logits, target, matrix([1], [2]), **options)
    assert len(asked) == 2


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_does_not_fit_is_named():
    logits, target = drawn(2, 4, 5, 5), labels(2, (5, 5), 3)
    with pytest.raises(ValueError, match=r"bool of shape \(2, 3\), got torch.bool of shape \(2, 4\)"):
        candidate_cross_entropy(logits, target, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"target must have shape \(2, 1, 5, 5\)"):
        partial_dice_loss(logits, target[:, 0], matrix([1], [1]))
    with pytest.raises(ValueError, match="mask must be bool"):
        partial_label_loss(logits, target, matrix([1], [1]), torch.ones(2, 1, 5, 5))
    with pytest.raises(ValueError, match=r"1\.\.3, got \[4\]"):
        annotation_matrix([[4]], 3)
    with pytest.raises(ValueError, match="'median'"):
        partial_region_loss(logits, torch.zeros(2, 4, 5, 5), torch.ones(2, 4, dtype=torch.bool), reduction="median")


# ------------------------------------------------------------------------------------------------------ a toy data set


def toy_batch(generator):
    """Images with three classes of different intensity, and label maps of which case b has class b + 1 only."""
    full = torch.zeros(3, 1, 12, 12, dtype=torch.long)
    for case in full:
        for k in (1, 2, 3):
            row, column = torch.randint(0, 8, (2,), generator=generator).tolist()
            case[0, row : row + 4, column : column + 4] = k
    image = full.float() + 0.15 * torch.randn(full.shape, generator=generator)
    own = torch.tensor([1, 2, 3]).view(3, 1, 1, 1)
    return image, full, torch.where(full == own, full, 0)


@pytest.mark.parametrize("plain", [False, True], ids=["candidate sets", "nnU-Net"])
def test_single_organ_sources_teach_all_organs_and_plain_training_does_not(plain):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    loss_of = nnunets_loss(batch_dice=True)
    annotated = matrix([1], [2], [3])
    for _ in range(300):
        image, _, target = toy_batch(generator)
        logits = network(image)
        loss = loss_of(logits, target) if plain else partial_label_loss(logits, target, annotated, batch_dice=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, full, _ = toy_batch(generator)
    found = network(image).argmax(1, keepdim=True)
    dice = [
        (2 * ((found == k) & (full == k)).sum() / ((found == k).sum() + (full == k).sum())).item() for k in (1, 2, 3)
    ]
    assert (min(dice) > 0.8) is not plain, dice
