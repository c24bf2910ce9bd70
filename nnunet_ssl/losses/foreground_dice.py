"""The Dice loss of the LA scripts of yulequan/UA-MT: foreground only. Reference for published weights, as `supervised.py`."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.consistency import probabilities


def foreground_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """`1 - (2 sum_{n,v} p y + s) / (sum_{n,v} p^2 + sum_{n,v} y^2 + s)` of the foreground against everything else.

    p: probability of any class but 0, y: target is not 0; sums over the whole batch. The official function is that of two
    classes.

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices, `(B, *spatial)`.
        smooth: s.

    Raises:
        ValueError: the target does not fit the logits.
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(f"target must have shape {expected}, got {tuple(target.shape)}")
    p, y = probabilities(logits)[:, 1:].sum(1), (target > 0).float()
    return 1 - (2 * (p * y).sum() + smooth) / ((p * p).sum() + (y * y).sum() + smooth)
