"""Volumes as stacks of slices, where neighbors across slices are too far away to be alike."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2.configuration import ANISO_THRESHOLD
from torch import Tensor


def has_thick_slices(spacing: Sequence[float]) -> bool:
    """Whether the first axis is so coarse that nnU-Net calls the data anisotropic (more than 3 times the finest spacing).

    Args:
        spacing: mm per axis of a patch, in nnU-Net's order of axes, which puts the coarsest first. 2D: False.
    """
    return len(spacing) == 3 and spacing[0] > ANISO_THRESHOLD * min(spacing)


def fold_slices(volumes: Tensor) -> Tensor:
    """`(B, C, z, y, x)` as `(B * z, C, y, x)`: every slice along the first axis becomes an item of the batch."""
    return volumes.transpose(1, 2).flatten(0, 1)
