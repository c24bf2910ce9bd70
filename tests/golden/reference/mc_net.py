"""Losses of the official code of MC-Net (ycwu1997/MC-Net) that no trainer has."""

from __future__ import annotations

import torch
from torch import Tensor


def binary_dice_loss(p: Tensor, target: Tensor, smooth: float = 1e-8) -> Tensor:
    """`1 - (2 sum p y + s) / (sum p + sum y + s)` of the foreground, over the whole batch. Both `(B, *spatial)`."""
    y = target.float()
    return 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)


def half_dice_loss(p: Tensor, target: Tensor, smooth: float = 1e-10) -> Tensor:
    """`mean_c 1 - (sum p y + s) / (sum p^2 + sum y^2 + s)`: the factor 2 is missing, so that a perfect prediction costs a half.

    Args:
        p: `(B, C, *spatial)`.
        target: class indices `(B, *spatial)`.
    """
    classes = torch.arange(p.shape[1]).view(1, -1, *[1] * (p.ndim - 2))
    y = (target.unsqueeze(1) == classes).float()
    axes = (0, *range(2, p.ndim))
    return (1 - ((p * y).sum(axes) + smooth) / ((p * p).sum(axes) + (y * y).sum(axes) + smooth)).mean()


def kl_of_probabilities(p: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """`mean t (ln t - ln (p + eps))` over all elements, 0 ln 0 = 0."""
    return (torch.xlogy(target, target) - target * (p + eps).log()).mean()
