"""What the pairwise terms of `gated_crf` and `dense_crf` share: a quadratic form in the probabilities, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def potts_channels(probabilities: Tensor, activation: str = "softmax") -> Tensor:
    """Channels s with `sum_c s_ic s_jc` = how far voxels i and j agree, in [0, 1]; `1 - ` that is the Potts cost of the pair.

    Classes: the probabilities themselves. Regions: every region is a problem of two classes, (p, 1 - p), and the cost is the mean
    over the R regions; the factor 1 / sqrt(R) of each channel makes the sum over channels this mean.

    Args:
        probabilities: `(B, C, *spatial)`, C classes (activation "softmax") or regions ("sigmoid").

    Returns:
        `(B, C or 2 C, *spatial)`.

    Raises:
        ValueError: an unknown activation.
    """
    if activation == "softmax":
        return probabilities
    if activation == "sigmoid":
        return torch.cat((probabilities, 1 - probabilities), dim=1) / math.sqrt(probabilities.shape[1])
    raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")


class _QuadraticEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, filtered: Tensor) -> Tensor:
        ctx.save_for_backward(filtered)
        ctx.dtype = values.dtype
        return -(values * filtered).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (filtered,) = ctx.saved_tensors
        return (-2 * gradient * filtered).to(ctx.dtype), None


def quadratic_energy(values: Tensor, filtered: Tensor) -> Tensor:
    """`E = -sum_c s_c^T W s_c` of a symmetric W, given `W s`: its gradient `-2 W s` needs no more than that.

    So W never has to exist as a whole, and nothing but `W s` is kept for the backward pass. First derivatives only.

    Args:
        values: s, `(B, C, *spatial)`.
        filtered: W s, of the same shape, in the type in which the sum is wanted. No gradient reaches it.
    """
    return _QuadraticEnergy.apply(values, filtered)
