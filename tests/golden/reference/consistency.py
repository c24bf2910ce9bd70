"""Consistency losses of the literature that no trainer has."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.consistency import _check
from nnunet_ssl.predictions.probabilities import probabilities


def softmax_dice(
    student_logits: Tensor,
    teacher_logits: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    smooth: float = 1e-5,
) -> Tensor:
    """Soft Dice loss between two predictions, sums over the whole batch, mean over all classes, background included.

        L = mean_c [1 - (2 sum_{n,v} p q + s) / (sum_{n,v} p + sum_{n,v} q + s)]

    Without squares in the denominator, as the official `softmax_dice_loss`: its smallest value is reached by equal
    and hard predictions, so it also sharpens.

    Args:
        smooth: s. The other arguments and errors are those of `softmax_mse`.
    """
    _check(activation, student_logits, teacher_logits, mask)
    p, q = probabilities(student_logits, activation), probabilities(teacher_logits, activation)
    if mask is not None:
        p, q = p * mask, q * mask
    axes = [axis for axis in range(p.ndim) if axis != 1]
    dice = (2 * (p * q).sum(axes) + smooth) / (p.sum(axes) + q.sum(axes) + smooth)
    return (1 - dice).mean()
