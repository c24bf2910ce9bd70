"""Rotations by 90 degrees and flips in the plane of the last two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def quarter_turns_fit(spacing: Sequence[float], *shapes: Sequence[int]) -> bool:
    """Whether a rotation by 90 degrees keeps the shapes and the distances of voxels: both are equal along the last two axes.

    Args:
        spacing: mm per axis.
        shapes: spatial extents in voxels.
    """
    return math.isclose(spacing[-1], spacing[-2], rel_tol=1e-5) and all(s[-1] == s[-2] for s in shapes)


def turn_and_flip(tensor: Tensor, quarter_turns: int, flipped_axes: Sequence[int] = ()) -> Tensor:
    """`tensor` rotated by 90 degrees `quarter_turns` times from the second-last axis to the last, then flipped.

    Args:
        tensor: `(..., H, W)`.
        quarter_turns: an odd number exchanges H and W.
        flipped_axes: axes of the rotated tensor.
    """
    turned = torch.rot90(tensor, quarter_turns, dims=(-2, -1))
    return torch.flip(turned, list(flipped_axes)) if flipped_axes else turned


def undo_turn_and_flip(tensor: Tensor, quarter_turns: int, flipped_axes: Sequence[int] = ()) -> Tensor:
    """The inverse of `turn_and_flip` with the same arguments: flipped back first, then rotated back."""
    turned = torch.flip(tensor, list(flipped_axes)) if flipped_axes else tensor
    return torch.rot90(turned, -quarter_turns, dims=(-2, -1))
