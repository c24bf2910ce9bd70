"""The supervised loss of the semi-supervised literature, as reference: 0.5 * (cross entropy + Dice).

Our trainers have nnU-Net's own loss on labeled patches. This one is what published weights of unlabeled terms were
tuned against (HiLab-git/SSL4MIS, `code/utils/losses.py`, class DiceLoss, and its training scripts). nnU-Net's loss is
about twice as large, since it has no factor 0.5; its Dice is over the foreground classes and has no squares in the
denominator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _class_indices(target: Tensor, predicted: Tensor) -> Tensor:
    """Target `(B, *spatial)` or `(B, 1, *spatial)` of any number type as int64 `(B, *spatial)`, checked to fit."""
    if target.ndim == predicted.ndim and target.shape[1] == 1:
        target = target[:, 0]
    expected = (predicted.shape[0], *predicted.shape[2:])
    if target.shape != expected:
        raise ValueError(f"target must have shape {expected} for {tuple(predicted.shape)}, got {tuple(target.shape)}")
    return target.long()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """`mean_{n,v} -ln softmax(logits)[target]`.

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices, `(B, *spatial)` or `(B, 1, *spatial)`.

    Raises:
        ValueError: the target does not fit the logits.
    """
    return F.cross_entropy(logits.float(), _class_indices(target, logits))


def squared_dice_loss(probabilities: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Dice loss per class over the whole batch, squares in the denominator, mean over all classes, background
    included.

        L = mean_c [1 - (2 sum_{n,v} p y + s) / (sum_{n,v} p^2 + sum_{n,v} y^2 + s)],    y: one-hot target, s = smooth

    Args:
        probabilities: `(B, C, *spatial)`.
        target: class indices, `(B, *spatial)` or `(B, 1, *spatial)`.
        smooth: s.

    Raises:
        ValueError: the target does not fit the probabilities.
    """
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    y = _class_indices(target, probabilities).unsqueeze(-1) == classes
    p, y = probabilities.float(), y.movedim(-1, 1).float()
    axes = [axis for axis in range(p.ndim) if axis != 1]
    dice = (2 * (p * y).sum(axes) + smooth) / ((p * p).sum(axes) + (y * y).sum(axes) + smooth)
    return (1 - dice).mean()


def ce_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """`0.5 * (cross_entropy + squared_dice_loss)`, the supervised loss of SSL4MIS.

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices, `(B, *spatial)` or `(B, 1, *spatial)`.
        smooth: of the Dice loss.

    Raises:
        ValueError: the target does not fit the logits.
    """
    dice = squared_dice_loss(torch.softmax(logits.float(), dim=1), target, smooth)
    return 0.5 * (cross_entropy(logits, target) + dice)


def mean_loss(losses: Sequence[Tensor]) -> Tensor:
    """The mean of scalar losses, of scales or decoders that count alike."""
    return torch.stack(list(losses)).mean()
