"""Boxes, their strips, size bounds, bags, and the trainers that use them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.data.size_bounds import read_size_bounds
from nnunet_ssl.dataloading.augmentation import spatial_changed
from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.size import barrier_steepness, extended_log_barrier, scaled_bounds, size_loss, soft_sizes
from nnunet_ssl.losses.tightness import tightness_loss
from nnunet_ssl.patches.boxes import BoxTargets, bounding_boxes, box_rows, box_strips, box_sums, box_volumes
from tests.golden.reference.boxes import fill_boxes, rows_from_corners
from tests.golden.reference.multiple_instance import bag_loss, bag_scores, pairwise_smoothness
from tests.golden.reference.size import precise_bounds
from tests.golden.reference.tightness import projected_tightness
from tests.helpers.training import copy_batch, make_trainer, started

# ------------------------------------------------------------------------------------------------------ boxes, strips


def test_boxes_of_components_and_of_everything():
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 1:4] = 1
    mask[3, 4] = 1  # touches by a corner
    mask[5, 7] = 2
    assert bounding_boxes(mask).tolist() == [[[1, 1], [4, 5]], [[5, 7], [6, 8]]]
    assert bounding_boxes(mask, components=False).tolist() == [[[1, 1], [6, 8]]]
    assert bounding_boxes(mask * 0).shape == bounding_boxes(mask * 0, components=False).shape == (0, 2, 2)
    assert bounding_boxes(np.ones((2, 3, 4))).tolist() == [[[0, 0, 0], [2, 3, 4]]]


def test_strips_cover_the_box_once_along_each_axis():
    box = np.array([[2, 1, 0], [9, 6, 3]])
    strips, bounds = box_strips(box, width=3)
    assert bounds.tolist() == [3, 3, 1, 3, 2, 3]
    assert strips[:3, :, 0].tolist() == [[2, 5], [5, 8], [8, 9]]
    assert (strips[:3, :, 1:] == box[:, 1:]).all()
    counts = sum(fill_boxes(box_rows(0, 0, strip[None]), (1, 1, 9, 6, 3)).int() for strip in strips)
    assert (counts[0, 0, 2:9, 1:6, 0:3] == 3).all() and counts.sum() == 3 * 7 * 5 * 3
    strips, bounds = box_strips(box, width=3, axes=[1])
    assert bounds.tolist() == [3, 2] and strips[:, :, 1].tolist() == [[1, 4], [4, 6]]


def test_the_official_extent_is_one_short():
    strips, bounds = box_strips(np.array([[0, 0], [6, 7]]), width=5, short_extent=True)
    assert bounds.tolist() == [
        5,
        5,
        1,
    ]  # the line 5 of axis 0 is in no strip, the last strip of axis 1 has one line more
    assert strips[:, 1].tolist() == [[5, 7], [6, 5], [6, 7]]


@pytest.mark.parametrize("d", [2, 3])
def test_box_sums_are_sums_and_have_their_gradient(d):
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 3, *(6, 7, 5)[:d], generator=generator).requires_grad_()
    first = torch.randint(0, 4, (9, d), generator=generator)
    behind = first + torch.randint(1, 3, (9, d), generator=generator)
    behind[0], first[0] = torch.tensor(p.shape[2:]), 0  # a box that fills the image
    of = torch.randint(0, 2, (9, 2), generator=generator)
    rows = torch.cat((of, first, behind), 1)
    masks = torch.stack([fill_boxes(row[None], p.shape) for row in rows])
    expected = (p * masks).flatten(1).sum(1)
    torch.testing.assert_close(box_sums(p, rows), expected)
    weights = torch.rand(9, generator=generator)
    (gradient,) = torch.autograd.grad((box_sums(p, rows) * weights).sum(), p)
    torch.testing.assert_close(gradient, torch.einsum("n,n...->...", weights, masks.float()))
    assert torch.equal(box_volumes(rows), masks.flatten(1).sum(1))
    assert box_sums(p, rows[:0]).sum().item() == 0


def test_small_sums_in_a_large_image_are_exact():
    p = torch.full((1, 1, 64, 64, 64), 0.1)
    p[..., -3:, -3:, -3:] = 1e-3
    rows = box_rows(0, 0, np.array([[[61, 61, 61], [64, 64, 64]]]))
    assert float(box_sums(p, rows)) == pytest.approx(0.027, rel=1e-5)


def test_corners_of_other_orders():
    rows = rows_from_corners(torch.tensor([[1, 0, 4, 2, 9, 7]]))
    assert rows.tolist() == [[1, 0, 2, 4, 8, 10]]


# ------------------------------------------------------------------------------------- boxes of an augmented patch


def target_of(*boxes, shape=(12, 14), ignore=3):
    """Target `(1, 1, *shape)` with the ignore label inside boxes, given as slices."""
    labels = torch.zeros(1, 1, *shape, dtype=torch.int16)
    for box in boxes:
        labels[(0, 0, *box)] = ignore
    return labels


def test_a_box_inside_the_patch_gives_its_strips_and_itself():
    found = BoxTargets(num_classes=1, width=4)(target_of((slice(2, 8), slice(3, 7))))
    assert found["boxes"].tolist() == [[0, 1, 2, 3, 8, 7]]
    assert found["bounds"].tolist() == [4, 2, 4]
    assert found["strips"].tolist() == [[0, 1, 2, 3, 6, 7], [0, 1, 6, 3, 8, 7], [0, 1, 2, 3, 8, 7]]


def test_strips_that_the_patch_may_have_shortened_are_dropped():
    # cut along axis 1: what crosses rows may lie outside, what crosses the columns in the patch does not
    found = BoxTargets(1, 4)(target_of((slice(2, 8), slice(0, 4))))
    assert found["boxes"].shape == (0, 6)
    assert found["strips"].tolist() == [[0, 1, 2, 0, 8, 4]] and found["bounds"].tolist() == [4]
    in_corner = BoxTargets(1, 4)(target_of((slice(8, 12), slice(10, 14))))
    assert in_corner["strips"].shape == (0, 6) and in_corner["bounds"].shape == (0,)
    nothing = BoxTargets(1, 4)(target_of())
    assert nothing["strips"].shape == nothing["boxes"].shape == (0, 6)
    volume = target_of((slice(0, 4), slice(1, 4), slice(1, 4)), shape=(6, 6, 6))
    found = BoxTargets(1, 4)(volume)
    assert found["strips"].tolist() == [[0, 1, 0, 1, 1, 4, 4, 4]]  # planes along the cut axis are whole


def test_with_several_classes_seeds_say_which_class_a_box_is_of():
    target = target_of((slice(1, 4), slice(1, 4)), (slice(6, 9), slice(1, 4)), (slice(6, 9), slice(8, 12)))
    target[0, 0, 2, 2] = 2
    target[0, 0, 7, 9], target[0, 0, 7, 10] = 1, 2  # seeds of two classes: boxes that overlap
    found = BoxTargets(num_classes=2, width=5)(target)
    assert found["boxes"].tolist() == [[0, 2, 1, 1, 4, 4]]
    found = BoxTargets(num_classes=1, width=5)(target_of((slice(1, 4), slice(1, 4)), ignore=2))
    assert found["boxes"][:, 1].tolist() == [1]


# -------------------------------------------------------------------------------------------------------------- losses


def test_barrier_is_continuous_and_smooth_at_its_edge():
    t = 5.0
    edge = torch.tensor([-1 / t**2], dtype=torch.float64)
    z = torch.cat((edge - 1e-9, edge + 1e-9)).requires_grad_()
    values = extended_log_barrier(z, t)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-7)
    torch.testing.assert_close(slopes, torch.full((2,), t, dtype=torch.float64), rtol=1e-6, atol=0)
    values = extended_log_barrier(torch.tensor([-1.0, -math.e, 2.0]), t)
    by_hand = torch.tensor([0.0, -1 / t, 2 * t - math.log(1 / t**2) / t + 1 / t])
    torch.testing.assert_close(values, by_hand)


@pytest.mark.parametrize("t", [5.0, 1000.0])
def test_barrier_has_no_infinite_gradient(t):
    z = torch.tensor([-1e5, -1e-9, 0.0, 1e-9, 1e5]).requires_grad_()
    (slopes,) = torch.autograd.grad(extended_log_barrier(z, t).sum(), z)
    assert slopes.isfinite().all() and (slopes > 0).all() and slopes.max() == t


def test_steepness_grows_up_to_a_limit():
    assert barrier_steepness(5, 1.1, 0) == 5
    assert barrier_steepness(5, 1.1, 20) == pytest.approx(33.637, rel=1e-4)
    assert barrier_steepness(5, 1.1, 100, highest=1000) == 1000


def test_sizes_and_bounds_by_hand():
    p = torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[[[True, True], [True, False]]], [[[True, False], [True, False]]]])
    assert soft_sizes(p).tolist() == [[1.75], [4.0]]
    assert soft_sizes(p, mask).tolist() == [[1.5], [2.0]]
    assert soft_sizes(p, batch=True).tolist() == [[5.75]]
    assert scaled_bounds(torch.tensor([10.0]), 0.5, 0.9).tolist() == [[5.0, 9.0]]
    torch.testing.assert_close(precise_bounds(torch.tensor([10.0, 0.0])), torch.tensor([[9.0, 11.0], [0.0, 0.0]]))
    bounds = torch.tensor([2.0, 3.0])
    assert float(size_loss(soft_sizes(p), bounds, voxels=4)) == pytest.approx((0.25**2 + 1) / 2 / 4)
    assert float(size_loss(soft_sizes(p), bounds, 4, reduction="sum")) == pytest.approx((0.25**2 + 1) / 4)
    only_upper = size_loss(soft_sizes(p), bounds, 4, counted=torch.tensor([False, True]), reduction="sum")
    assert float(only_upper) == pytest.approx(1 / 4)
    psi = lambda z: float(extended_log_barrier(torch.tensor(z), 5.0))  # noqa: E731
    barrier = size_loss(soft_sizes(p), bounds, 4, t=5.0, reduction="sum")
    assert float(barrier) == pytest.approx((psi(0.25) + psi(-1.25) + psi(-2.0) + psi(1.0)) / 4, rel=1e-5)
    only_upper = size_loss(soft_sizes(p), torch.tensor([-math.inf, 3.0]), 4, t=5.0, counted=torch.tensor([False, True]))
    assert float(only_upper) == pytest.approx((psi(-1.25) + psi(1.0)) / 2 / 4, rel=1e-5)


def test_a_bound_that_does_not_count_has_no_gradient():
    sizes = torch.tensor([[5.0, 5.0]], requires_grad=True)
    counted = torch.tensor([[[False, False], [True, True]]])
    for t in (None, 5.0):
        loss = size_loss(sizes, torch.tensor([7.0, 8.0]), 10, t=t, counted=counted)
        (gradient,) = torch.autograd.grad(loss, sizes)
        assert gradient[0, 0] == 0 and gradient[0, 1] < 0


def test_tightness_by_hand():
    p = torch.zeros(1, 2, 5, 5)
    p[0, 1, 1:3, 1:4] = 0.5
    strips, bounds = box_strips(np.array([[1, 1], [3, 4]]), width=2)
    rows, bounds = box_rows(0, 1, strips), torch.from_numpy(bounds).float()
    assert bounds.tolist() == [2, 2, 1]  # sums 3, 2, 1
    assert float(tightness_loss(p, rows, bounds, reduction="sum")) == 0
    assert float(tightness_loss(0.5 * p, rows, bounds, reduction="sum")) == pytest.approx(0.5 + 1 + 0.5)
    assert float(tightness_loss(0.5 * p, rows, bounds)) == pytest.approx(2 / 3)
    psi = [float(extended_log_barrier(torch.tensor(z), 5.0)) for z in (-1.0, 0.0, 0.0)]
    assert float(tightness_loss(p, rows, bounds, t=5.0)) == pytest.approx(sum(psi) / 3, rel=1e-5)
    p.requires_grad_()
    nothing = tightness_loss(p, rows[:0], bounds[:0], t=5.0)
    assert nothing.item() == 0 and not torch.autograd.grad(nothing, p)[0].any()


def test_projections_by_hand():
    mask = torch.zeros(2, 4, 4, 4)
    mask[:, 1:3, 1:3, 1:3] = 1
    p = torch.zeros_like(mask)
    assert float(projected_tightness(p, mask, width=2)) == pytest.approx(2 * 3 * 2 * 2)
    p[:, 1, 1, 1] = 1  # each projection has one pixel in one of its two strips of two lines
    assert float(projected_tightness(p, mask, width=2)) == pytest.approx(2 * 3 * 2 * 1)
    assert float(projected_tightness(mask, mask, width=1)) == 0


def test_bags_by_hand():
    p = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    assert bag_scores(p, 0).tolist() == pytest.approx([0.4, 0.8])
    assert bag_scores(p, 1, "gm", 2).tolist() == pytest.approx([math.sqrt(0.34), math.sqrt(0.26)])
    a = math.exp(0.2 * 4), math.exp(0.8 * 4)
    assert float(bag_scores(p, 1, "expsumr", 4)[0]) == pytest.approx((0.2 * a[0] + 0.8 * a[1]) / sum(a))
    assert float(bag_scores(p, 1, "explogs", 4)[0]) == pytest.approx(math.log(sum(a) / 2) / 4)
    weights = torch.tensor([[1, 0], [1, 1]])
    for kind in ("max", "gm", "expsumr", "explogs"):
        assert float(bag_scores(p, 1, kind, weights=weights)[0]) == pytest.approx(0.2, rel=1e-5)
    with pytest.raises(ValueError, match="'explogs'"):
        bag_scores(p, 1, "mean")

    image, box = p[None, None], rows_from_corners(torch.tensor([[0, 0, 0, 0, 1, 0]]))  # the first row
    positive = [-math.log(0.2), -math.log(0.8), -math.log(0.8)]
    negative = [0.0, -math.log(0.4), -math.log(0.6), -math.log(0.4)]
    assert float(bag_loss(image, box)) == pytest.approx((sum(positive) + sum(negative)) / 7, rel=1e-5)
    assert float(bag_loss(image, box, "balance")) == pytest.approx(sum(positive) / 6 + sum(negative) / 8, rel=1e-5)
    focal = sum(0.25 * (1 - math.exp(-x)) ** 2 * x for x in positive)
    focal += sum(0.75 * q**2 * -math.log(1 - q) for q in (0.4, 0.6))
    assert float(bag_loss(image, box, "focal")) == pytest.approx(focal / 3, rel=1e-5)
    # the first row has no pixel outside the box: no smooth maximum, no bag
    smooth = bag_loss(image, box, "all", "gm", 1.0)
    negative = [-math.log(0.5), -math.log(0.6), -math.log(0.4)]
    assert float(smooth) == pytest.approx(
        (-math.log(0.5) - math.log(0.2) - math.log(0.8) + sum(negative)) / 6, rel=1e-5
    )
    without = bag_loss(image, box[:0])
    assert float(without) == pytest.approx(-(2 * math.log(0.2) + math.log(0.6) + math.log(0.4)) / 4, rel=1e-5)


@pytest.mark.parametrize("d", [2, 3])
def test_pairwise_smoothness_of_one_voxel(d):
    p = torch.zeros(1, 1, *(5,) * d)
    p[(0, 0, *(2,) * d)] = 1
    neighbors = 3**d - 1
    assert float(pairwise_smoothness(p)) == pytest.approx(2 / 5**d)  # the voxel differs from all, and all from it
    only_it = pairwise_smoothness(p, p)
    assert float(only_it) == pytest.approx(1)
    corner = torch.zeros_like(p)
    corner[(0, 0, *(0,) * d)] = 1  # beyond the edge is 0 too
    inside = 2**d - 1
    assert float(pairwise_smoothness(corner)) == pytest.approx((neighbors + inside) / neighbors / 5**d)


# ---------------------------------------------------------------------------------------------------- size_bounds


LABELS = {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}


def test_size_bounds_are_by_channel_of_classes_and_of_regions():
    given = {"lesion": {"mm2": [1, 10.5], "mm3": [0, 50]}}
    assert read_size_bounds({"labels": LABELS, "size_bounds": given}, 2, "f") == {2: (1.0, 10.5)}
    assert read_size_bounds({"labels": LABELS, "size_bounds": given}, 3, "f") == {2: (0.0, 50.0)}
    regions = {"background": 0, "whole": [1, 2], "lesion": [2], "ignore": 3}
    assert read_size_bounds({"labels": regions, "size_bounds": given}, 2, "f") == {1: (1.0, 10.5)}


@pytest.mark.parametrize(
    "given, message",
    [
        (None, r"found None. Add \"size_bounds\": \{\"organ\": \{\"mm2\""),
        ({}, "found {}"),
        ({"liver": {"mm2": [1, 2]}}, "names liver; foreground labels are organ, lesion"),
        ({"organ": {"mm3": [1, 2]}}, "'organ' needs 'mm2' for a 2d configuration"),
        ({"organ": {"mm2": [3, 2]}}, r"found \{'mm2': \[3, 2\]\}"),
        ({"organ": {"mm2": [1, 2, 3]}}, r"found .*\[1, 2, 3\]"),
        ({"organ": {"mm2": [1, "x"]}}, "two increasing numbers"),
        ({"organ": 5}, "'organ' needs 'mm2' for a 2d configuration"),
        ({"organ": {"mm2": [0, 0]}}, "two increasing numbers"),
    ],
)
def test_wrong_size_bounds_are_refused(given, message):
    content = {"labels": LABELS} if given is None else {"labels": LABELS, "size_bounds": given}
    with pytest.raises(UserError, match=message):
        read_size_bounds(content, 2, "f")


# ---------------------------------------------------------------------------------------------------------- trainers


def test_the_size_trainer_uses_upper_bounds_everywhere_and_lower_ones_where_annotated(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    trainer = started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path, penalty="quadratic"))
    assert trainer.channels == [1, 2] and not trainer.use_lower_bounds  # patches are smaller than images
    trainer.bounds = torch.tensor([[1000.0, 2000.0], [3000.0, 4000.0]])
    batch = next(trainer.dataloader_train)
    labels = batch["target"][0]
    labels[labels == 2] = 3
    labels[0, 0, 0, 0], labels[1][labels[1] == 1] = 1, 3  # organ annotated in the first patch only, lesion nowhere
    assert trainer.train_step(copy_batch(batch))["size"] == 0
    trainer.use_lower_bounds = True
    seen = {}
    trainer.student.module.register_forward_hook(lambda module, inputs, outputs: seen.update(logits=outputs[0]))
    values = trainer.train_step(copy_batch(batch))
    sizes = (seen["logits"].detach().softmax(1) * batch["labeled_inside"])[0, 1].sum()
    expected = (1000 - float(sizes)) ** 2 / 4 / (24 * 24)  # mean over two patches and two classes
    assert values["size"] == pytest.approx(expected, rel=1e-4)
    trainer.absent_unless_annotated = True
    values = trainer.train_step(copy_batch(batch))
    p = seen["logits"].detach().softmax(1) * batch["labeled_inside"]
    sizes = p.flatten(2).sum(2)
    expected = (1000 - sizes[0, 1]) ** 2 + sizes[1, 1] ** 2 + (sizes[:, 2] ** 2).sum()
    assert values["size"] == pytest.approx(float(expected) / 4 / (24 * 24), rel=1e-4)


def test_the_size_trainer_asks_for_bounds_and_for_a_known_penalty(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    with pytest.raises(UserError, match=r"size_bounds.*dataset.json"):
        make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path).initialize()
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    with pytest.raises(ValueError, match="'log_barrier' or 'quadratic'"):
        make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path, penalty="l1").initialize()


def spatial_of(trainer):
    transforms = trainer.dataloader_train.data_loader.transforms.transforms
    return next(t for t in transforms if type(t).__name__ == "SpatialTransform")


def test_augmentation_keeps_what_the_bounds_are_about(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    of_sizes = spatial_of(started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path / "a")))
    assert (of_sizes.p_scaling, of_sizes.p_rotation) == (0, 0.2)
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    of_boxes = spatial_of(started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path / "b")))
    assert (of_boxes.p_scaling, of_boxes.p_rotation) == (0.2, 0)
    with pytest.raises(ValueError, match="no setting 'rotation_probability'"):
        spatial_changed([of_boxes], rotation_probability=0)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_boxes_of_augmented_patches_are_the_boxes_of_their_labels(configuration, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, configuration, results=tmp_path))
    boxes = strips = 0
    for _ in range(12):
        batch = next(trainer.dataloader_train)
        labels = batch["target"][0]
        for item, channel, *box in batch["extra/boxes"].tolist():
            d = len(box) // 2
            inside = labels[(item, 0, *(slice(a, b) for a, b in zip(box[:d], box[d:])))]
            assert channel == 1 and (inside == 1).any()
            # scaled labels may lose a voxel at the corners of a box
            assert (inside != 0).sum() >= inside.numel() - 2**d
            boxes += 1
        assert len(batch["extra/strips"]) == len(batch["extra/bounds"])
        strips += len(batch["extra/strips"])
    assert boxes > 0 and strips > boxes


def test_boxes_teach_an_object_without_any_of_its_voxels_annotated():
    """Gradient descent on p alone: strips and sizes fill the box, whatever the start."""
    target = target_of((slice(3, 9), slice(4, 11)))
    found = BoxTargets(num_classes=1, width=2)(target)
    logits = torch.full((1, 2, 12, 14), 0.0)
    logits[:, 1] = -3
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(150):
        p = logits.softmax(1)
        t = barrier_steepness(5, 1.1, step / 10)
        bounds = scaled_bounds(box_volumes(found["boxes"]), 0.5, 0.9)
        loss = tightness_loss(p, found["strips"], found["bounds"], t=t)
        loss = loss + size_loss(box_sums(p, found["boxes"]), bounds, 12 * 14, t=t, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    size = box_sums(logits.softmax(1), found["boxes"]).item()
    assert 0.5 * 42 <= size <= 0.9 * 42
    outside = logits.detach().softmax(1)[0, 1] * (target[0, 0] == 0)
    assert outside.max() < 0.05  # no term says anything there


def test_boxes_whose_class_nobody_knows_are_refused(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path)
    trainer.initialize()
    without_seeds = {"class_locations": {1: [], 2: []}}

    class NoSeeds:
        def __init__(self, folder, cases):
            pass

        def load_case(self, case):
            return None, None, None, without_seeds

    found = trainer.dataset_class
    trainer.on_train_start()
    trainer.dataset_class = NoSeeds
    with pytest.raises(UserError, match="nothing says which class a box is of"):
        trainer._refuse_boxes_of_unknown_class()
    trainer.dataset_class = found
    with pytest.raises(NotImplementedError, match="would look like a box"):
        make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path, padding="ignore").initialize()
