"""Tests of `nnunet_ssl.patches.boxes`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.boxes import BoxTargets, bounding_boxes, box_rows, box_strips, box_sums, box_volumes
from tests.golden.reference.boxes import fill_boxes


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


@pytest.mark.parametrize("d", [2, 3])
def test_boxes_that_touch_have_strips_and_no_size(d):
    first, second = [(slice(1, 5),) * d, (slice(5, 9),) * d], [(slice(1, 2),) * d, (slice(2, 3),) * d]
    for boxes in (first, second):
        found = BoxTargets(num_classes=1, width=4)(target_of(*boxes, shape=(12,) * d))
        assert found["boxes"].shape == (0, 2 + 2 * d) and len(found["strips"]) == len(found["bounds"]) > 0
    target = target_of((slice(1, 7),) * d, shape=(12,) * d)
    target[(0, 0, *(1,) * d)] = 0  # a corner that scaling took
    assert BoxTargets(num_classes=1, width=4)(target)["boxes"].tolist() == [[0, 1, *[1] * d, *[7] * d]]


def test_with_several_classes_seeds_say_which_class_a_box_is_of():
    target = target_of((slice(1, 4), slice(1, 4)), (slice(6, 9), slice(1, 4)), (slice(6, 9), slice(8, 12)))
    target[0, 0, 2, 2] = 2
    target[0, 0, 7, 9], target[0, 0, 7, 10] = 1, 2  # seeds of two classes: boxes that overlap
    found = BoxTargets(num_classes=2, width=5)(target)
    assert found["boxes"].tolist() == [[0, 2, 1, 1, 4, 4]]
    found = BoxTargets(num_classes=1, width=5)(target_of((slice(1, 4), slice(1, 4)), ignore=2))
    assert found["boxes"][:, 1].tolist() == [1]
