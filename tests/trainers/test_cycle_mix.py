"""CycleMix: cosine distance, blocks, cutout, the filter of structures, and the terms of PuzzleMix."""

from __future__ import annotations

import math

import pytest
import torch

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


@pytest.mark.parametrize("name", [TRAINER, "nnUNetTrainerShapePU"])
def test_a_patch_of_few_slices_has_a_hole(name, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(name, out, dataset, "3d_fullres", results=tmp_path))  # patches of 12 slices
    passes = record_calls(monkeypatch, "nnunet_ssl.patches.cut_and_turn.cut_and_turned_pass")
    trainer.train_step(next(trainer.dataloader_train))
    kept = passes[0][0][3]
    assert (~kept).flatten(1).any(1).all()
