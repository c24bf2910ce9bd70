"""Tests of `nnunet_ssl.patches.turns`."""

from __future__ import annotations

import math

import pytest
import torch

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


def test_turns_and_flips_by_hand():
    x = torch.tensor([[[1, 2], [3, 4]]])
    assert turn_and_flip(x, 1).tolist() == [[[2, 4], [1, 3]]]
    assert turn_and_flip(x, 2).tolist() == turn_and_flip(x, 0, [-1, -2]).tolist() == [[[4, 3], [2, 1]]]
    assert turn_and_flip(x, 1, [-1]).tolist() == [[[4, 2], [3, 1]]]
    assert turn_and_flip(torch.zeros(1, 2, 5, 4, 6), 3).shape == (1, 2, 5, 6, 4)
