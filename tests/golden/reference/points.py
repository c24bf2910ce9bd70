"""Losses of PA-Seg that no trainer has: partial Dice with cross entropy, and the distillation of its second stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import masked_cross_entropy, masked_dice_loss
from nnunet_ssl.predictions.probabilities import in_float32, probabilities

_NO_OVERLAP = 1e-19  # PA-Seg: only keeps 0 / 0 away


def partial_dice_ce(
    logits: Tensor, target: Tensor, annotated: Tensor | None = None, activation: str = "softmax"
) -> Tensor:
    """Cross entropy plus Dice loss (all classes, no smoothing) of the annotated voxels of each item, mean over items that have any.

        L = mean_n [ mean_v ce_nv + mean_c (1 - 2 sum_v p_ncv y_ncv / sum_v (p_ncv + y_ncv)) ],    v: annotated voxels of item n

    PA-Seg's `PartialLoss(DC_CE)`; without `annotated` its `DC_CE`, used on pseudo labels. The Dice of a class without an annotated
    voxel is 0. With no annotated voxel at all the loss is 0 with a gradient of 0 (PA-Seg: a number without a gradient).

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices `(B, 1, *spatial)`, or regions `(B, C, *spatial)`; any valid class where not annotated.
        annotated: `(B, 1, *spatial)` bool; None: every voxel.
        activation: "softmax" or "sigmoid".

    Raises:
        ValueError: target or mask do not fit the logits.
    """
    if annotated is None:
        annotated = torch.ones((logits.shape[0], 1, *logits.shape[2:]), dtype=torch.bool, device=logits.device)
    items = zip(logits.split(1), target.split(1), annotated.split(1), strict=True)
    losses = [
        masked_cross_entropy(*item, activation) + masked_dice_loss(*item, activation, smooth=_NO_OVERLAP)
        for item in items
    ]
    return torch.stack(losses).sum() / annotated.flatten(1).any(1).sum().clamp(min=1)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    activation: str = "softmax",
    mask: Tensor | None = None,
) -> Tensor:
    """Divergence of softened predictions.

        L = T^2 mean_{n,v} sum_c q_c ln(q_c / p_c),    p = softmax(student / T), q = softmax(teacher / T)

    Hinton et al., 2015, arXiv:1503.02531, as in PA-Seg (T = 4): the mean goes over voxels, not over classes. Of regions: the sum
    over regions of the divergence of the two Bernoulli distributions.

    Args:
        student_logits: `(B, C, *spatial)`.
        teacher_logits: `(B, C, *spatial)`.
        temperature: T.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.
    """
    if student_logits.shape != teacher_logits.shape or temperature <= 0:
        raise ValueError(
            f"both predictions must have one shape and the temperature be positive, got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {temperature}"
        )
    student, teacher = in_float32(student_logits) / temperature, in_float32(teacher_logits) / temperature
    q = probabilities(teacher, activation)
    if activation == "softmax":
        divergence = F.kl_div(F.log_softmax(student, 1), q, reduction="none")
    else:
        divergence = F.kl_div(F.logsigmoid(student), q, reduction="none")
        divergence = divergence + F.kl_div(F.logsigmoid(-student), torch.sigmoid(-teacher), reduction="none")
    return temperature**2 * mean_where(divergence.sum(1, keepdim=True), mask)
