"""A patch on a coarser grid, for terms whose cost grows fast with the number of voxels.

A cell is a block of `factors` voxels; the last cells along an axis may hold fewer. Its value is the mean of its voxels, so that
the mean of probabilities stays a distribution and gradients reach every voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def halvings(shape: Sequence[int], spacing: Sequence[float], max_voxels: int) -> tuple[int, ...]:
    """Voxels per cell and axis, powers of 2, for a grid of at most `max_voxels` cells that are as cubic as that allows.

    The axis with the smallest edge of a cell is halved (of equal ones the first) until the grid is small enough.

    Args:
        shape: voxels per axis.
        spacing: edge of a voxel per axis, in any unit.
        max_voxels: of the coarse grid, at least 1.

    Raises:
        ValueError: `max_voxels` is not positive.
    """
    if max_voxels < 1:
        raise ValueError(f"max_voxels must be at least 1, got {max_voxels}")
    factors = [1] * len(shape)

    def cells(axis: int) -> int:
        return math.ceil(shape[axis] / factors[axis])

    while math.prod(cells(axis) for axis in range(len(shape))) > max_voxels:
        divisible = [axis for axis in range(len(shape)) if cells(axis) > 1]
        factors[min(divisible, key=lambda axis: factors[axis] * spacing[axis])] *= 2
    return tuple(factors)


def cell_means(values: Tensor, factors: Sequence[int]) -> Tensor:
    """Mean over the voxels of every cell: `(B, C, *spatial)` to `(B, C, *cells)` with `ceil(size / factor)` cells per axis.

    Raises:
        ValueError: not one factor per axis.
    """
    if len(factors) != values.ndim - 2:
        raise ValueError(f"one factor per axis is needed for {tuple(values.shape)}, got {tuple(factors)}")
    if max(factors) == 1:
        return values
    # cells beyond the image would be cut anyway, but the kernel must not be larger than the image
    size = tuple(min(factor, n) for factor, n in zip(factors, values.shape[2:]))
    return _MEANS[len(factors)](values, size, ceil_mode=True)


def whole_cells(mask: Tensor, factors: Sequence[int]) -> Tensor:
    """The cells of which every voxel is in the mask, bool `(B, 1, *cells)`; the mask is bool `(B, 1, *spatial)`."""
    return cell_means(mask.float(), factors) >= 1
