"""What MAAG's official code has and the trainer has not."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.positive_unlabeled import class_shares
from nnunet_ssl.losses.region import masked_cross_entropy


def rescaled(loss: Tensor, reference: Tensor) -> Tensor:
    """`loss` made as large as `|reference|`, by a factor `|reference / loss|` without a gradient."""
    return (reference / loss).detach().abs() * loss


def balanced_cross_entropy(logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
    """Cross entropy of the annotated voxels, classes weighted by the inverse of their number in the batch.

        L = sum_{v annotated} w_y ce_v / (number of voxels),    w_c = n / n_c

    n_c: annotated voxels of class c in the batch, n: of all classes. The mean goes over all voxels, as in the official code, so
    the loss is small where little is annotated.

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices `(B, 1, *spatial)`; any class where not annotated.
        annotated: bool `(B, 1, *spatial)`.
    """
    shares = class_shares(target, logits.shape[1], annotated).float()
    target = torch.where(annotated, target, 0)
    weights = torch.where(shares > 0, 1 / shares, 0)[target.long()] * annotated
    return masked_cross_entropy(logits, target, weights) * weights.mean()
