"""FixMatch in the form of HiLab-git/SSL4MIS (`train_fixmatch_standard_augs.py`), which our trainer does not follow, as reference.

Probabilities and logits `(B, C, *spatial)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.golden.reference.supervised import cross_entropy, squared_dice_loss


def relative_range(p: Tensor) -> Tensor:
    """`(p_c - min_c p) / max_c p` in every voxel: what the script compares with its threshold."""
    return (p - p.amin(1, keepdim=True)) / p.amax(1, keepdim=True)


def above(values: Tensor, threshold: float) -> Tensor:
    return values > threshold


def label_of_masked(p: Tensor, mask: Tensor) -> Tensor:
    """`argmax_c (p_c mask_c)`, `(B, 1, *spatial)`: class 0 where nothing is in the mask."""
    return (p * mask).argmax(1, keepdim=True)


def full_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy + Dice with squares, not halved."""
    return cross_entropy(logits, target) + squared_dice_loss(torch.softmax(logits, 1), target)


def spatial_certainty(p: Tensor) -> Tensor:
    """`1 - mean_{n,c} H(q_nc) / ln V`: q_nc is the map of a class's probabilities, scaled to a sum of 1 over the V voxels."""
    maps = p.flatten(2)
    q = maps / maps.sum(2, keepdim=True)
    return 1 - (-(q * q.log()).sum(2) / math.log(maps.shape[2])).mean()


def complementary_loss(p_strong: Tensor, p_weak: Tensor, certainty: Tensor) -> Tensor:
    """`certainty CE(1 - p_strong, argmin p_weak)`, where 1 - p is taken for logits."""
    return certainty * cross_entropy(1 - p_strong, p_weak.argmin(1, keepdim=True))


def unlabeled_loss(logits: Tensor, label: Tensor, certainty: Tensor, complementary: Tensor) -> Tensor:
    """`CE + Dice + certainty complementary`: the certainty, which is in the complementary loss, enters twice."""
    return full_loss(logits, label) + certainty * complementary
