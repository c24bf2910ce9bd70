"""Tests of `nnunet_ssl.patches.turns`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.cut_and_turn import cut_and_turned_pass, draw_turn
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip, undo_turn_and_flip


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


def test_turns_and_flips_by_hand():
    x = torch.tensor([[[1, 2], [3, 4]]])
    assert turn_and_flip(x, 1).tolist() == [[[2, 4], [1, 3]]]
    assert turn_and_flip(x, 2).tolist() == turn_and_flip(x, 0, [-1, -2]).tolist() == [[[4, 3], [2, 1]]]
    assert turn_and_flip(x, 1, [-1]).tolist() == [[[4, 2], [3, 1]]]
    assert turn_and_flip(torch.zeros(1, 2, 5, 4, 6), 3).shape == (1, 2, 5, 6, 4)
