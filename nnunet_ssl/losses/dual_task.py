"""Losses of two heads, one for classes and one for level sets, that describe the same objects.

Luo, Chen, Song, Wang, "Semi-supervised Medical Image Segmentation through Dual-task Consistency", AAAI 2021,
arXiv:2009.04448. Official code: HiLab-git/DTC. Everything is computed in float32 at least: `k z` leaves the range of
float16, and its sigmoid is 0 or 1 almost everywhere.

Level sets `(B, K, *spatial)` have one channel per object: a foreground class (logits with K + 1 channels, activation
"softmax") or a region (K channels, "sigmoid").
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def level_set_to_mask(level_set: Tensor, k: float = -1500.0) -> Tensor:
    """`T(z) = sigmoid(k z)`, their eq. 2: near 1 inside (z < 0), near 0 outside, 1/2 at the boundary; same shape.

    The gradient is as good as 0 beyond |z| of 0.01.

    Args:
        level_set: `(B, K, *spatial)` in [-1, 1].
        k: steepness, negative because the inside is.
    """
    return torch.sigmoid(k * in_float32(level_set))


def level_set_mse(level_set: Tensor, maps: Tensor, mask: Tensor | None = None) -> Tensor:
    """`L_sdf = mean_{n,k,v} (z - phi)^2` over the objects and voxels that count.

    Args:
        level_set: z, `(B, K, *spatial)` in [-1, 1].
        maps: phi, signed distance maps of the same shape.
        mask: bool that broadcasts to them, what counts; all if None. If nothing does, the loss is 0.

    Raises:
        ValueError: shapes differ or the mask does not fit.
    """
    if level_set.shape != maps.shape:
        raise ValueError(f"level sets and maps must have one shape, got {tuple(level_set.shape)}, {tuple(maps.shape)}")
    return mean_where((in_float32(level_set) - maps) ** 2, mask)


def dual_task_consistency(
    level_set: Tensor, logits: Tensor, activation: str = "softmax", k: float = -1500.0, mask: Tensor | None = None
) -> Tensor:
    """`L_con = mean_{n,k,v} (T(z_k) - p_k)^2`, their eq. 5, p_k the probability of object k. Both heads get a gradient.

    For one object with activation "sigmoid" this is the loss of the official code.

    Args:
        level_set: z, `(B, K, *spatial)` in [-1, 1].
        logits: `(B, K + 1, *spatial)` for "softmax" (channel 0 is background), `(B, K, *spatial)` for "sigmoid".
        activation: "softmax" or "sigmoid".
        k: see `level_set_to_mask`.
        mask: bool that broadcasts to the level set, voxels that count; all if None. If none does, the loss is 0.

    Raises:
        ValueError: shapes do not correspond, an unknown activation, or the mask does not fit.
    """
    p = probabilities(logits, activation)
    p = p[:, 1:] if activation == "softmax" else p
    if p.shape != level_set.shape:
        raise ValueError(
            f"level sets must have the shape of the objects' probabilities {tuple(p.shape)}, got {tuple(level_set.shape)}"
        )
    return mean_where((level_set_to_mask(level_set, k) - p) ** 2, mask)
