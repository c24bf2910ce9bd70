"""Copy-paste: where boxes may lie, what masks say, how images and label maps are mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.mixing import (
    both_directions,
    box_size,
    copy_paste,
    cross_view_labels,
    draw_box,
    halves,
    mix_halves,
    outside_boxes,
    resize_nearest,
)
from tests.golden.reference.mixing import draw_grid_of_boxes, draw_stripe


def test_box_sizes_of_the_paper():
    assert box_size((112, 112, 80), 2 / 3) == [74, 74, 53]
    assert box_size((96, 96, 96), 2 / 3) == [64, 64, 64]
    assert box_size((256, 256), 2 / 3) == [170, 170]
    with pytest.raises(ValueError, match="ratio"):
        box_size((4, 4), 1.5)


def test_boxes_reach_every_position_and_the_official_rule_leaves_out_the_last():
    random = np.random.RandomState(0)
    assert {draw_box((5,), (3,), random=random)[0] for _ in range(99)} == {(0, 3), (1, 4), (2, 5)}
    assert {draw_box((5,), (3,), last=False, random=random)[0] for _ in range(99)} == {(0, 3), (1, 4)}
    assert draw_box((4, 6), (4, 6), last=False, random=random) == [(0, 4), (0, 6)]  # the official code fails here
    with pytest.raises(ValueError, match="does not fit"):
        draw_box((4, 6), (5, 6))


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 6)])
def test_masks(shape):
    box = draw_box(shape, box_size(shape, 2 / 3))
    mask = outside_boxes(shape, [box])
    assert mask.shape == (1, 1, *shape) and mask.dtype == torch.bool
    assert int((~mask).sum()) == np.prod(box_size(shape, 2 / 3))
    grid = draw_grid_of_boxes(shape, 2 / 3)
    assert len(grid) == 3 ** len(shape)
    assert int((~outside_boxes(shape, grid)).sum()) == sum(np.prod([b - a for a, b in box]) for box in grid)
    stripe = draw_stripe(shape, 4 / 9)
    assert stripe[0][1] - stripe[0][0] == 4 and stripe[1] == (0, 12)
    # the extent of another axis, as the official code has it
    assert np.diff(draw_stripe(shape, 4 / 9, extent=18)[0]) == [8]


def test_copy_paste_by_hand():
    first, second = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[7, 8, 9]]])
    mask = torch.tensor([[[True, False, True]]])
    assert copy_paste(first, second, mask).tolist() == [[[1.0, 8.0, 3.0]]]
    assert copy_paste(first, second, mask).dtype == torch.float32
    assert copy_paste(first, torch.tensor([[[float("nan"), 8, 9]]]), mask).tolist() == [[[1.0, 8.0, 3.0]]]
    assert copy_paste(first > 1, second > 7, mask).tolist() == [[[False, True, True]]]
    with pytest.raises(ValueError, match="cannot be mixed"):
        copy_paste(first, second[..., :2], mask)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_both_directions(count):
    mask = outside_boxes((4, 4), [[(1, 3), (1, 3)]])
    masks = both_directions(mask, count)
    assert masks.shape == (count, 1, 4, 4)
    half = (count + 1) // 2
    assert all(torch.equal(m, mask[0]) for m in masks[:half])
    assert all(torch.equal(m, ~mask[0]) for m in masks[half:])


def test_resize_is_nnunets():
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    labels = torch.randint(0, 3, (2, 1, 12, 10), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    for sample in labels:
        theirs = DownsampleSegForDSTransform(((1, 1), (0.5, 1), (0.25, 0.5)))._apply_to_segmentation(sample)
        for target in theirs:
            ours = resize_nearest(sample[None], target.shape[1:])[0]
            assert torch.equal(ours, target) and ours.dtype == target.dtype
    assert resize_nearest(labels > 0, (6, 5)).dtype == torch.bool


@pytest.mark.parametrize(
    "count, first, second", [(1, [0], [0]), (2, [0], [1]), (3, [0, 1], [2, 0]), (4, [0, 1], [2, 3])]
)
def test_halves_use_every_sample(count, first, second):
    a, b = halves(torch.arange(count))
    assert a.tolist() == first and b.tolist() == second


@pytest.mark.parametrize("size", [(4, 4), (4, 4, 2)])
def test_halves_are_mixed_with_a_mask_of_any_size(size):
    mask = outside_boxes(size, [[(0, 2)] + [(0, n) for n in size[1:]]])  # the upper half is taken from the second image
    images = torch.stack([torch.full((2, *size), 1.0), torch.full((2, *size), 2.0)])
    mixed = mix_halves(images, mask)
    assert mixed.shape == (1, 2, *size) and (mixed[:, :, :2] == 2).all() and (mixed[:, :, 2:] == 1).all()
    small = images[..., ::2, :] if len(size) == 2 else images[:, :, ::2]
    assert mix_halves(small, mask).shape == (1, *small.shape[1:])


def test_the_other_networks_label_outside_the_box_and_the_own_inside():
    mask = torch.tensor([[[True, False]]])
    first, second = torch.tensor([[[10, 11]], [[20, 21]]]), torch.tensor([[[30, 31]], [[40, 41]]])
    of_first, of_second = cross_view_labels(first, second, mask)
    assert of_first.tolist() == [[[30, 21]]]  # second network on a, first network on b
    assert of_second.tolist() == [[[10, 41]]]
