"""Several predictions of the same patches, each asked to be what the others would be if they were sure.

Wu, Xu, Ge, Cai, Zhang, "Semi-supervised Left Atrium Segmentation with Mutual Consistency Training", MICCAI 2021,
arXiv:2103.02911; Wu, Ge, Zhang, Xu, Zhang, Xia, Cai, Medical Image Analysis 2022, arXiv:2109.09960. Official code:
ycwu1997/MC-Net.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import probabilities


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """`p^(1/T) / (p^(1/T) + (1 - p)^(1/T))` of each probability by itself: of several classes these do not sum up to 1.

    Computed as `1 / (1 + ((1 - p) / p)^(1/T))` where p is the larger one and as its complement where it is not, which does not
    underflow.

    Args:
        p: probabilities of any shape, float32 or float64.
        temperature: T, more than 0.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    larger = torch.maximum(p, 1 - p)
    certain = 1 / (1 + ((1 - larger) / larger) ** (1 / temperature))
    return torch.where(p >= 0.5, certain, 1 - certain)


def mutual_consistency(
    predictions: Sequence[Tensor],
    temperature: float,
    activation: str = "softmax",
    mask: Tensor | None = None,
    detached: bool = False,
) -> Tensor:
    """`sum_{i != j} mean_{n,c,v} (p_i - sharpened(p_j))^2` over the n (n - 1) ordered pairs.

    Args:
        predictions: logits, n times `(B, C, *spatial)`.
        temperature: of `sharpened`.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        detached: sharpened predictions get no gradient, as the papers say; the official code lets it pass.
    """
    p = [probabilities(z, activation) for z in predictions]
    targets = [sharpened(q.detach() if detached else q, temperature) for q in p]
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if i != j]
    return torch.stack([mean_where((p[i] - targets[j]) ** 2, mask) for i, j in pairs]).sum()
