"""Losses of the literature on partial labels that our trainers do not have, as reference. Notation as in `partial_label.py`.

Target adaptive loss: Fang & Yan, IEEE TMI 2020 (DIAL-RPI/PIPO-FAN). DoDNet: Zhang et al., CVPR 2021 (jianpengz/DoDNet).
CLIP-driven universal model: Liu et al., ICCV 2023 (ljwztc/CLIP-Driven-Universal-Model). Label-set losses: Fidon et al., MICCAI 2021
(LucasFidon/label-set-loss-functions).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.candidate_sets import log_candidate_probability, merged_probabilities, partial_dice_loss
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.predictions.probabilities import in_float32


def expanded_labels(compact: Tensor, annotated: Sequence[int]) -> Tensor:
    """Class ids from a map of the same shape in which j is the j-th annotated class (from 1) and 0 the background."""
    return torch.tensor([0, *annotated], device=compact.device)[compact.long()]


def region_target(labels: Tensor, regions: Sequence[Collection[int]]) -> Tensor:
    """Regions as nnU-Net's target has them, bool `(B, R, *spatial)`, from a label map `(B, 1, *spatial)`."""
    return torch.cat([torch.isin(labels, torch.tensor([*ids], dtype=labels.dtype)) for ids in regions], dim=1)


def target_adaptive_loss(probabilities: Tensor, target: Tensor, annotated: Tensor, floor: float = 1e-10) -> Tensor:
    """`-mean_v log q_y`, q the merged probabilities of p clamped to [floor, 1]: `candidate_cross_entropy` but for the clamp.

    Args:
        probabilities: p `(B, K+1, *spatial)`, after the softmax.
        target: class indices `(B, 1, *spatial)`.
        annotated: bool `(B, K)`.
    """
    q = merged_probabilities(probabilities.clamp(floor, 1), annotated)
    return -torch.log(q.gather(1, target.long())).mean()


def marginal_dice_loss(
    logits: Tensor, target: Tensor, annotated: Tensor, *, batch: bool, smooth: float, background: bool = False
) -> Tensor:
    """1 - Dice of the marginal probabilities, the paper's form of `partial_dice_loss`."""
    return 1 + partial_dice_loss(logits, target, annotated, batch=batch, background=background, smooth=smooth)


# -------------------------------------------------------------------------------------------- sigmoid heads, means of pairs


def marked_channels(target: Tensor, marker: float = -1) -> Tensor:
    """DoDNet's test whether a channel of a case is annotated, bool `(B, C)`: its first voxel is not the marker."""
    return target.flatten(2)[:, :, 0] != marker


def binary_dice_per_pair(logits: Tensor, target: Tensor, smooth: float = 1.0, per_slab: bool = False) -> Tensor:
    """`1 - 2 sum s g / (sum s + sum g + smooth)`, `(B, C)`, s = sigmoid(logits); smooth only below.

    Args:
        per_slab: sums within each slab of the first spatial axis, then the mean over slabs (CLIP-driven model).
    """
    s, g = torch.sigmoid(in_float32(logits)), target.to(logits.dtype)
    axes = tuple(range(3 if per_slab else 2, s.ndim))
    loss = 1 - 2 * (s * g).sum(axes) / (s.sum(axes) + g.sum(axes) + smooth)
    return loss.mean(2) if per_slab else loss


def binary_cross_entropy_per_pair(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy with logits, mean over voxels: `(B, C)`."""
    values = F.binary_cross_entropy_with_logits(in_float32(logits), target.to(logits.dtype), reduction="none")
    return values.flatten(2).mean(2)


def mean_of_pairs(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` `(B, C)` over the valid (case, channel) pairs (CLIP-driven model)."""
    return torch.where(valid, values, 0).sum() / valid.sum()


def mean_of_channels(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid cases of a channel, then over the channels that have any (DoDNet)."""
    count = valid.sum(0)
    of_channel = torch.where(valid, values, 0).sum(0) / count.clamp(min=1)
    return torch.where(count > 0, of_channel, 0).sum() / (count > 0).sum()


# ---------------------------------------------------------------------------------------------------------- label sets


def label_sets(target: Tensor, supersets: Mapping[int, Collection[int]], channels: int) -> Tensor:
    """The set of classes that a label stands for, bool `(B, C, *spatial)`.

    Args:
        target: `(B, 1, *spatial)`: classes 0..C-1, and superset labels.
        supersets: label of a superset -> its classes.
    """
    sets = one_hot(target, channels) > 0
    for label, classes in supersets.items():
        sets[:, list(classes)] |= target == label
    return sets


def label_set_target(sets: Tensor) -> Tensor:
    """1/|set| for each class of the set, 0 for the others."""
    return sets / sets.sum(1, keepdim=True)


def marginalized_probabilities(logits: Tensor, sets: Tensor) -> Tensor:
    """softmax(logits), where inside a voxel's set every class has the mean probability of the set."""
    p = torch.softmax(in_float32(logits), dim=1)
    mean = torch.where(sets, p, 0).sum(1, keepdim=True) / sets.sum(1, keepdim=True)
    return torch.where(sets, mean, p)


def _mean_dice_loss(p: Tensor, y: Tensor, squared: bool, eps: float) -> Tensor:
    p, y = p.flatten(2), y.flatten(2)
    total = (p * p + y * y if squared else p + y).sum(2)
    return (1 - (2 * (p * y).sum(2) / (total + eps)).mean(1)).mean()


def marginalized_dice_loss(logits: Tensor, sets: Tensor, squared: bool = True, eps: float = 1e-5) -> Tensor:
    """Dice of `marginalized_probabilities` with `label_set_target`, mean over all classes and samples."""
    return _mean_dice_loss(marginalized_probabilities(logits, sets), label_set_target(sets), squared, eps)


def leaf_dice_loss(logits: Tensor, target: Tensor, squared: bool = True, eps: float = 1e-5) -> Tensor:
    """Dice in which a superset label has no target class: its voxels count in the sum of the prediction only."""
    p = torch.softmax(in_float32(logits), dim=1)
    return _mean_dice_loss(p, one_hot(target, logits.shape[1]), squared, eps)


def label_set_cross_entropy(logits: Tensor, sets: Tensor) -> Tensor:
    """`-mean_v log((1/|K_v|) sum_{c in K_v} p_c)`: the candidate set's cross entropy plus the mean of log |K_v|."""
    return (torch.log(sets.sum(1, keepdim=True)) - log_candidate_probability(logits, sets)).mean()
