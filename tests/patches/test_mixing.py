"""Copy-paste: where boxes may lie, what masks say, how images and label maps are mixed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.mixing import (
    blend,
    both_directions,
    box_masks,
    box_size,
    centered_box,
    copy_paste,
    cross_view_labels,
    cutmix_sides,
    cutout_masks,
    draw_block_masks,
    draw_box,
    draw_centered_masks,
    draw_fitting_box,
    draw_mix_factors,
    draw_occasional_masks,
    halves,
    mix_halves,
    outside_boxes,
    paste_next,
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


def test_the_next_of_the_batch_is_pasted():
    outside = outside_boxes((4, 4), [[(0, 2), (0, 4)]])
    batch = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2)  # of half the resolution
    assert paste_next(batch, outside)[:, 0, :, 0].tolist() == [[1, 0], [2, 1], [0, 2]]


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


@pytest.mark.parametrize("shape", [(40, 30), (24, 30, 20)])
def test_one_box_covers_its_share(shape):
    masks = box_masks(200, shape, (0.4, 0.4), 1, np.random.RandomState(0))
    assert masks.shape == (200, 1, *shape) and masks.dtype == torch.bool
    assert abs((~masks).float().mean() - 0.4) < 0.02
    for mask in masks[:20, 0]:
        inside = np.argwhere(~mask.numpy())
        sides = inside.max(0) - inside.min(0) + 1
        assert len(inside) == np.prod(sides)  # a full box


def test_boxes_that_overlap_cancel():
    class Full:
        """Every box is the whole image."""

        def uniform(self, low, high, size):
            return np.full(size, high if (low, high) != (0.0, 1.0) else 0.5)

    # two boxes with the side 1/sqrt(2) of 10 voxels, both in the middle
    assert box_masks(1, (10, 10), (1.0, 1.0), 2, Full()).all()
    mask = box_masks(1, (10, 10), (1.0, 1.0), 3, Full())[0, 0]  # the side is 6, at 2
    expected = torch.ones(10, 10, dtype=torch.bool)
    expected[2:8, 2:8] = False
    assert torch.equal(mask, expected)


def test_boxes_are_drawn_from_the_source_given():
    first, again = (box_masks(2, (9, 8), random=np.random.RandomState(3)) for _ in range(2))
    assert torch.equal(first, again)
    np.random.seed(3)
    assert torch.equal(first, box_masks(2, (9, 8)))
    for share, boxes in [((0.0, 0.5), 3), ((0.5, 0.2), 3), ((0.2, 1.1), 3), ((0.2, 0.5), 0)]:
        with pytest.raises(ValueError, match="share"):
            box_masks(1, (4, 4), share, boxes)


def test_blend_by_hand_and_as_copy_paste():
    first, second = torch.arange(16.0).reshape(1, 1, 4, 4), torch.full((1, 1, 4, 4), 100.0)
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 1.0]]]])
    mixed = blend(first, second, mask)
    assert mixed[0, 0].tolist() == [[0, 1, 51, 51.5], [4, 5, 53, 53.5], [100, 100, 10, 11], [100, 100, 14, 15]]
    hard = mask > 0.75
    assert torch.equal(blend(first, second, hard), copy_paste(first, second, resize_nearest(hard, (4, 4))))
    with pytest.raises(ValueError, match="cannot be mixed"):
        blend(first, second[..., :2], mask)


@pytest.mark.parametrize("shape, length", [((9, 12), 4), ((9, 12, 6), (4, 2, 6))])
def test_cutout_cuts_one_box_around_a_voxel(shape, length):
    random = np.random.RandomState(0)
    masks = cutout_masks(50, shape, length, random)
    assert masks.shape == (50, 1, *shape) and masks.dtype == torch.bool
    sides = [length] * len(shape) if isinstance(length, int) else length
    for mask in masks:
        where = (~mask[0]).nonzero()
        extent = where.max(0).values - where.min(0).values + 1
        assert len(where) == extent.prod() and all(side // 2 <= e <= side for e, side in zip(extent.tolist(), sides))
    assert len({int((~m).sum()) for m in masks}) > 1  # the image border cuts some off


def test_block_masks_have_one_share_per_draw():
    random = np.random.RandomState(0)
    shares = [draw_block_masks(2, (8, 8, 4), random=random).float().mean().item() for _ in range(40)]
    assert draw_block_masks(3, (2, 4), random=random).shape == (3, 1, 2, 4)
    assert min(shares) < 0.1 and max(shares) > 0.9  # Beta(0.5, 0.5) has most of its mass at the ends


def test_pseudo_labels_shrink_like_nnunets_targets():
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    labels = torch.randint(-1, 3, (2, 1, 12, 24, 24))
    for scale in (1, 0.5, 0.25):
        (expected,) = DownsampleSegForDSTransform([scale])(segmentation=labels[0])["segmentation"]
        found = resize_nearest(labels, expected.shape[1:])
        assert torch.equal(found[0], expected) and found.dtype == labels.dtype


@pytest.mark.parametrize("axes", [2, 3])
def test_mix_factors_are_one_per_mix_and_mostly_near_the_ends(axes):
    factors = draw_mix_factors(4000, axes, 0.2, np.random.RandomState(0))
    assert factors.shape == (4000, 1, *[1] * axes) and factors.dtype == torch.float32
    assert factors.min() >= 0 and factors.max() <= 1
    assert factors.mean().item() == pytest.approx(0.5, abs=0.03)
    near = ((factors < 0.05) | (factors > 0.95)).float().mean().item()
    assert near == pytest.approx(0.58, abs=0.03)


def test_centered_boxes_are_cut_off_at_the_image():
    assert cutmix_sides((20, 9), 0.75) == [10, 4]
    assert centered_box((20, 9), (10, 5), (2, 8)) == [(0, 7), (6, 9)]
    masks = draw_centered_masks(50, (16, 12, 8), random=np.random.RandomState(0))
    assert masks.shape == (50, 1, 16, 12, 8) and masks.dtype == torch.bool
    assert 0 < (~masks).float().mean() < 0.5


@pytest.mark.parametrize("shape", [(40, 64), (32, 48, 40)])
def test_fitting_boxes_lie_inside_and_have_a_share_of_the_image(shape):
    random = np.random.RandomState(0)
    shares, ratios = [], []
    for _ in range(50):
        box = draw_fitting_box(shape, (0.1, 0.3), (0.5, 2.0), random)
        assert all(0 <= start < stop <= n for (start, stop), n in zip(box, shape, strict=True))
        relative = [(stop - start) / n for (start, stop), n in zip(box, shape)]
        shares.append(np.prod(relative))
        ratios += [a / b for a, b in itertools.pairwise(relative)]
    assert 0.07 < min(shares) < 0.15 and 0.22 < max(shares) <= 0.3  # sides are rounded down
    assert 0.45 < min(ratios) < 0.7 and 1.4 < max(ratios) < 2.2
    with pytest.raises(ValueError, match="share must be"):
        draw_fitting_box(shape, (0.0, 0.3))


def test_occasional_masks_have_a_box_as_often_as_they_should():
    random = np.random.RandomState(0)
    assert draw_occasional_masks(5, (16, 16), 0.0, random=random).all()
    masks = draw_occasional_masks(200, (16, 16), 0.5, random=random)
    assert masks.shape == (200, 1, 16, 16) and 80 < (~masks).flatten(1).any(1).sum() < 120
    coin = iter((0.9, 0.1))
    masks = draw_occasional_masks(2, (16, 16), 0.5, random=random, coin=lambda: next(coin))
    assert masks[0].all() and not masks[1].all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda **k: box_masks(3, (9, 8), **k),
        lambda **k: draw_centered_masks(3, (9, 8), **k),
        lambda **k: draw_occasional_masks(3, (9, 8), 1.0, **k),
        lambda **k: cutout_masks(3, (9, 8), 4, **k),
    ],
)
def test_masks_are_made_where_they_are_needed(draw):
    random = np.random.RandomState(5)
    on_host = draw(random=random)
    drawn = random.uniform()
    random = np.random.RandomState(5)
    assert not on_host.all() and draw(random=random, device="meta").device.type == "meta"
    assert random.uniform() == drawn  # the same random numbers
