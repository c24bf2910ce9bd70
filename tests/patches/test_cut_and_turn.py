"""Tests of `nnunet_ssl.patches.cut_and_turn`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.cut_and_turn import cut_and_turned_pass, draw_turn, hole_size
from nnunet_ssl.patches.mixing import cutout_masks
from nnunet_ssl.patches.turns import undo_turn_and_flip


def test_all_turns_are_drawn_that_fit_the_plane():
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


@pytest.mark.parametrize("extent", [3, 7, 13, 14, 212])
def test_a_hole_has_voxels_along_every_axis(extent):
    sides = hole_size((extent, 212), 32 / 212)
    assert sides == [max(2, int(extent * 32 / 212)), 32]
    masks = cutout_masks(20, (extent, 212), sides, random=np.random.RandomState(0))
    assert (~masks).flatten(1).any(1).all()
    assert hole_size((extent, 212), 0.0) == [0, 0]
