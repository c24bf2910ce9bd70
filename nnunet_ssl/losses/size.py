"""Constraints on the size of segmented objects: nothing outside bounds, as a quadratic penalty or as a log barrier.

Kervadec et al., "Constrained-CNN losses for weakly supervised segmentation", Medical Image Analysis 2019, arXiv:1805.04628
(penalty; LIVIAETS/SizeLoss_WSS); Kervadec et al., "Constrained deep networks: Lagrangian optimization via log-barrier extensions",
EUSIPCO 2022, arXiv:1904.04205 (barrier; LIVIAETS/extended_logbarrier). Sizes and bounds are in voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32


def soft_sizes(p: Tensor, mask: Tensor | None = None, *, batch: bool = False) -> Tensor:
    """`V_nc = sum_v p_ncv`, `(B, C)`; with `batch` the sum over the items too, `(1, C)`: slices of one volume.

    Args:
        p: probabilities or one-hot labels `(B, C, *spatial)`.
        mask: `(B, 1 or C, *spatial)`, voxels that count; all if None.
    """
    p = in_float32(p) if mask is None else in_float32(p) * mask
    sizes = p.flatten(2).sum(2)
    return sizes.sum(0, keepdim=True) if batch else sizes


def scaled_bounds(sizes: Tensor, lower: float, upper: float) -> Tensor:
    """`[lower * size, upper * size]`, at least 0, `(..., 2)`. In the official code 0.5 and 0.9, of the area of a box."""
    return torch.stack((lower * sizes, upper * sizes), -1).clamp(min=0)


def extended_log_barrier(z: Tensor, t: float) -> Tensor:
    """A barrier for the constraint z <= 0 that is finite on both sides of it (eq. 8 of arXiv:1904.04205).

        psi_t(z) = -ln(-z) / t                           if z <= -1 / t^2
                   t z - ln(1 / t^2) / t + 1 / t         else

    The larger t, the steeper. Negative where the constraint holds by more than 1.
    """
    edge = -1 / t**2
    z = in_float32(z)
    inside = z <= edge
    # the logarithm must not see the other branch: its infinite gradient times 0 would be NaN
    logarithm = -torch.log(-torch.where(inside, z, edge)) / t
    return torch.where(inside, logarithm, t * z + 2 * math.log(t) / t + 1 / t)


def barrier_steepness(start: float, factor: float, epochs: float, highest: float = math.inf) -> float:
    """`t = min(start * factor^epochs, highest)`; official code: start 5, factor 1.1, no limit."""
    return min(start * factor**epochs, highest)


def size_loss(
    sizes: Tensor,
    bounds: Tensor,
    voxels: int,
    *,
    t: float | None = None,
    counted: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Penalty of sizes V outside their bounds [a, b], divided by the number of voxels of an image.

        t is None:  max(0, V - b)^2 + max(0, a - V)^2
        else:       psi_t(V - b) + psi_t(a - V)

    Official: the mean over items and classes for the quadratic penalty, the sum for the barrier.

    Args:
        sizes: V, `(B, C)`.
        bounds: a and b, `(B, C, 2)` or of a shape that broadcasts to it.
        voxels: of an image.
        t: steepness of the log barrier; None: quadratic penalty.
        counted: which bounds hold, bool, of a shape that broadcasts to `(B, C, 2)`; all if None.
        reduction: "mean" or "sum" over items and classes.

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    z = torch.stack((bounds[..., 0] - sizes, sizes - bounds[..., 1]), -1)
    if counted is not None:
        z = torch.where(counted, z, -1)  # both forms are 0 there and know no gradient
    values = z.clamp(min=0) ** 2 if t is None else extended_log_barrier(z, t)
    total = values.sum(-1)
    return (total.mean() if reduction == "mean" else total.sum()) / voxels
