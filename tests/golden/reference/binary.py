"""Supervised losses of one foreground class, as reference: what published weights of unlabeled terms were tuned against."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def _foreground(values: Tensor, target: Tensor) -> Tensor:
    """Where the target is 1, in the type of `values`, checked to have its shape."""
    if values.shape != target.shape:
        raise ValueError(f"prediction and target must have one shape, got {tuple(values.shape)}, {tuple(target.shape)}")
    return (target == 1).float()


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """`mean_{n,v} -y ln p - (1 - y) ln(1 - p)`, p = sigmoid(logits), y = 1 where the target is 1.

    Args:
        logits: `(B, *spatial)`, of the foreground.
        target: `(B, *spatial)`, any number type.

    Raises:
        ValueError: shapes differ.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), _foreground(logits, target))


def foreground_dice_loss(probabilities: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """`1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s)`, sums over the whole batch, y = 1 where the target is 1.

    Args:
        probabilities: p, `(B, *spatial)`, of the foreground.
        target: `(B, *spatial)`, any number type.
        smooth: s.

    Raises:
        ValueError: shapes differ.
    """
    p, y = probabilities.float(), _foreground(probabilities, target)
    return 1 - (2 * (p * y).sum() + smooth) / ((p * p).sum() + (y * y).sum() + smooth)
