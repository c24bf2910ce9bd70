"""CycleMix: cosine distance, blocks, cutout, the filter of structures, and the terms of PuzzleMix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.losses.cosine import cosine_distance
from nnunet_ssl.patches.cut_and_turn import cut_and_turned_pass, draw_turn
from nnunet_ssl.patches.mixing import blend, copy_paste, cutout_masks, draw_block_masks, resize_nearest
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip, undo_turn_and_flip
from nnunet_ssl.predictions.hard_labels import largest_structure
from tests.golden.framework import record_calls
from tests.golden.reference.puzzle_mix import (
    block_saliency,
    boundary_differences,
    from_blocks,
    to_blocks,
    transport_blocks,
    transport_cost,
    transport_plan,
)
from tests.helpers.training import copy_batch, make_trainer, started

TRAINER = "nnUNetTrainerCycleMix"


def test_cosine_distance_by_hand():
    p = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]]])
    q = torch.tensor([[[2.0, 1.0, 4.0], [0.0, 0.0, 3.0]]])
    assert cosine_distance(p, q).item() == pytest.approx((0 + 1 + (1 - 24 / 25)) / 3, rel=1e-6)
    mask = torch.tensor([[[True, False, True]]])
    assert cosine_distance(p, q, mask).item() == pytest.approx((1 - 24 / 25) / 2, rel=1e-5)
    assert cosine_distance(p, q, ~mask & mask).item() == 0
    with pytest.raises(ValueError, match="one shape"):
        cosine_distance(p, q[:, :1])


@pytest.mark.parametrize("spatial", [(4, 4), (2, 4, 3)])
def test_each_sample_is_masked_by_its_own_holes(spatial):
    """The official code of ShapePU broadcasts the masks of all samples against each other."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(3, 4, *spatial, generator=generator) for _ in range(2))
    mask = torch.rand(3, 1, *spatial, generator=generator) > 0.5
    each = [(1 - torch.cosine_similarity(a, b, 0))[m[0]] for a, b, m in zip(p, q, mask)]
    assert cosine_distance(p, q, mask).item() == pytest.approx(torch.cat(each).mean().item(), rel=1e-5)


def test_cosine_distance_sends_gradients_to_both_and_none_into_holes():
    p, q = (torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[:, :, :2] = False
    cosine_distance(p.half(), q.half(), mask).backward()
    for x in (p, q):
        assert (x.grad[:, :, 2:] != 0).any() and not (x.grad[:, :, :2] != 0).any() and x.grad.isfinite().all()


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


STRUCTURE = [
    [1, 1, 0, 2, 0, 0],
    [0, 2, 0, 0, 0, 3],
    [0, 2, 0, 3, 0, 0],
    [0, 0, 0, 0, 1, 0],
]


def test_structures_keep_what_is_in_the_largest_component_of_class_and_of_all():
    labels = torch.tensor(STRUCTURE)[None, None]
    expected = torch.zeros(4, 6, dtype=torch.long)
    expected[0, :2] = 1
    expected[1:3, 1] = 2
    # both single voxels of class 3 are its largest component or not, but neither is connected to the rest
    assert torch.equal(largest_structure(labels)[0, 0], expected)
    # class 3 has several parts: only 1 and 2 are one organ
    expected[1, 5] = expected[2, 3] = 3
    assert torch.equal(largest_structure(labels, classes=(1, 2))[0, 0], expected)
    assert torch.equal(largest_structure(labels, classes=())[0, 0], labels[0, 0])


def test_structures_in_3d_and_faces_against_corners():
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    labels[0, 0, 0, 0, :3] = 1
    labels[0, 0, 1, 1, 3] = 2
    assert int(largest_structure(labels).sum()) == 3  # the voxel of class 2 touches at a corner only
    assert int(largest_structure(labels, connectivity=3).sum()) == 5


@pytest.mark.parametrize("shape, blocks", [((4, 6), (2, 3)), ((4, 6, 2), (2, 2, 1))])
def test_blocks_and_back(shape, blocks):
    image = torch.arange(2.0 * 3 * math.prod(shape)).reshape(2, 3, *shape)
    parts = to_blocks(image, blocks)
    assert parts.shape == (2, 3, math.prod(blocks), math.prod(shape) // math.prod(blocks))
    assert torch.equal(from_blocks(parts, shape, blocks), image)
    first = image[(0, 0, *(slice(n // b) for n, b in zip(shape, blocks)))]
    assert torch.equal(parts[0, 0, 0], first.flatten())
    with pytest.raises(ValueError, match="cannot be divided"):
        to_blocks(image, [b + 3 for b in blocks])


def test_transport_moves_a_salient_block_into_the_mask():
    cost = transport_cost((2, 2))
    assert cost.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]]
    # the upper left block is all that is salient; the mask keeps the lower left one
    saliency = block_saliency(torch.zeros(1, 1, 4, 4).index_put((*[torch.tensor(0)] * 4,), torch.tensor(1.0)), (2, 2))
    assert saliency.flatten().tolist() == [1, 0, 0, 0]
    mask = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]]])
    plan = transport_plan(mask, saliency, eps=0.8)
    assert plan[0, :, 2].tolist() == [1, 0, 0, 0]
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = transport_blocks(image, plan, (2, 2))
    assert torch.equal(moved[..., 2:, :2], image[..., :2, :2])
    # a move that costs more than it gains is not made
    assert transport_plan(mask, saliency, eps=1.5)[0, 0, 2] == 0


def test_boundary_differences_by_hand():
    first = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]] * 2]])
    second = torch.tensor([[[[10.0, 20.0, 30.0, 40.0]] * 2]])
    down, right = boundary_differences(first, second, (1, 2), cell=1)
    assert down.shape == (1, 0, 2) and right.tolist() == [
        [[28.0]]
    ]  # last voxel of the first, then the first of the second
    down, right = boundary_differences(first, second, (1, 2), cell=2)
    assert right.tolist() == [[[35 - 1.5]]]
    with pytest.raises(ValueError, match="do not divide"):
        boundary_differences(first, second, (1, 2), cell=3)


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (3, 5, 5)])
def test_turns_are_undone_exactly(shape):
    x = torch.arange(float(math.prod(shape))).reshape(1, 1, *shape)
    for quarter_turns in range(4):
        for axes in ([], [-1], [-2], [-2, -1]):
            there = turn_and_flip(x, quarter_turns, axes)
            assert torch.equal(undo_turn_and_flip(there, quarter_turns, axes), x)


def test_quarter_turns_only_where_the_plane_is_square():
    assert quarter_turns_fit((3.0, 1.0, 1.0), (4, 8, 8)) and not quarter_turns_fit((1.0, 1.0), (8, 6))
    assert not quarter_turns_fit((1.0, 1.5), (8, 8))
    random = np.random.RandomState(0)
    drawn = {(turns, *axes) for turns, axes in (draw_turn((1, 1), (8, 8), random) for _ in range(200))}
    assert len(drawn) == 16
    assert {turns for turns, _ in (draw_turn((1, 1), (8, 6), random) for _ in range(50))} == {0, 2}


@pytest.mark.parametrize("turn", [(1, [-1]), (3, []), (2, [-2])])
def test_a_pass_of_a_voxelwise_network_comes_back_to_its_place(turn):
    """For a network that looks at single voxels, cutting and turning change nothing but the hole."""
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    target = torch.randint(0, 3, (2, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    kept = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    kept[0, :, :3, 5:] = False

    def network(x):
        full = torch.cat((x, -x), 1)
        return [full, full[..., ::2, ::2]]

    scales, targets, back = cut_and_turned_pass(network, images, target, kept, turn, ignore_label=3)
    assert torch.equal(back[:, :1], torch.where(kept, images, 0))
    assert [t.shape for t in targets] == [(2, 1, 8, 8), (2, 1, 4, 4)] and targets[0].dtype == torch.int16
    undone = undo_turn_and_flip(targets[0], *turn)
    assert torch.equal(undone == 3, ~kept) and torch.equal(undone[kept], target[kept])
    assert torch.equal(undo_turn_and_flip(scales[0], *turn), back)


def trained(datasets, tmp_path, configuration="2d", **attributes):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(TRAINER, out, dataset, configuration, results=tmp_path, **attributes))
    return trainer, next(trainer.dataloader_train)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_mixed_labels_are_labels_of_the_mixed_images(configuration, datasets, tmp_path, monkeypatch):
    trainer, batch = trained(datasets, tmp_path, configuration, cutout=0.01)
    # the image is its own label map, so what the network sees can be compared with what it is taught
    batch["data"] = batch["target"][0].float()
    passes = record_calls(monkeypatch, "nnunet_ssl.patches.cut_and_turn.cut_and_turned_pass")
    trainer.train_step(copy_batch(batch))
    (_, images, target, _, _, ignore), _ = passes[0]
    assert torch.equal(images, target.float()) and ignore == 3
    first, second = batch["target"][0], batch["target"][0].roll(-1, 0)
    assert ((target == first) | (target == second)).all()
    assert set(target.unique().tolist()) <= {0, 1, 2, 3}


def test_integrity_is_an_option_with_named_classes(datasets, tmp_path, monkeypatch):
    trainer, batch = trained(datasets, tmp_path / "a", connected=(1,))
    calls = record_calls(monkeypatch, "nnunet_ssl.predictions.hard_labels.largest_structure")
    assert trainer.train_step(copy_batch(batch))["integrity"] > 0
    assert calls[0][0][1] == (1,)
    trainer, batch = trained(datasets, tmp_path / "b", integrity_weight=0.0)
    calls.clear()
    assert trainer.train_step(copy_batch(batch))["integrity"] == 0 and not calls
