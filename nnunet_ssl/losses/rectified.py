"""Pseudo-label losses that are rectified by how far two predictions diverge.

Lu, Yin, Fu, Yang, "Uncertainty-aware pseudo-label and consistency for semi-supervised medical image segmentation",
Biomedical Signal Processing and Control, 2023. Official code: AIforMS/UPC-Pytorch (`code/train_LA_UPC.py`).

Logits are `(B, C, *spatial)`; maps are `(B, M, *spatial)` with M = 1 for activation "softmax" (one number per voxel) and
M = C for "sigmoid" (one per voxel and region, each a Bernoulli distribution of its own). Everything is computed in
float32 at least, from log-probabilities, so that saturated predictions give finite numbers.

No function detaches the student; teacher logits are expected without a gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.consistency import softmax_kl
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.hard_labels import hard_labels, sure_labels
from nnunet_ssl.predictions.probabilities import in_float32


def _check_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"both must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")


def divergence_map(student_logits: Tensor, teacher_logits: Tensor, activation: str = "softmax") -> Tensor:
    """`KL(teacher || student)` at every voxel.

        softmax: sum_c q_c ln(q_c / p_c)
        sigmoid: q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)) per region

    p: student, q: teacher.

    Args:
        student_logits, teacher_logits: `(B, C, *spatial)`.
        activation: "softmax" or "sigmoid".

    Returns:
        `(B, 1, *spatial)` for "softmax", `(B, C, *spatial)` for "sigmoid".

    Raises:
        ValueError: shapes differ, or an unknown activation.
    """
    divergence = softmax_kl(student_logits, teacher_logits, activation, reduction="none")
    return divergence.sum(dim=1, keepdim=True) if activation == "softmax" else divergence


def pseudo_label_loss_map(student_logits: Tensor, teacher_logits: Tensor, activation: str = "softmax") -> Tensor:
    """Cross entropy of the student with the teacher's hard labels at every voxel.

        softmax: -ln p_y,  y = argmax_c q_c        sigmoid: -ln p where q > 0.5, else -ln(1 - p), per region

    Arguments, shape of the result and errors are those of `divergence_map`.
    """
    _check_shapes(student_logits, teacher_logits)
    student = in_float32(student_logits)
    label = hard_labels(teacher_logits, activation)
    if activation == "softmax":
        return F.cross_entropy(student, label[:, 0], reduction="none").unsqueeze(1)
    return F.binary_cross_entropy_with_logits(student, label.to(student.dtype), reduction="none")


def rectified_mean(loss_map: Tensor, divergence: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mean_v(l_v exp(-KL_v)) + mean_v(KL_v)`: a loss weighted down where predictions diverge, and the divergence.

    Gradients go through the loss, the weight and the divergence.

    Args:
        loss_map: l, `(B, M, *spatial)`.
        divergence: KL, same shape.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None. If none does, the loss is 0.

    Raises:
        ValueError: shapes differ or the mask does not fit.
    """
    _check_shapes(loss_map, divergence)
    return mean_where(loss_map * torch.exp(-divergence) + divergence, mask)


def rectified_pseudo_label_loss(
    student_logits: Tensor, teacher_logits: Tensor, activation: str = "softmax", mask: Tensor | None = None
) -> Tensor:
    """The loss of the paper: `rectified_mean` of `pseudo_label_loss_map` with `divergence_map`.

    Args:
        student_logits, teacher_logits: `(B, C, *spatial)`.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.

    Raises:
        ValueError: shapes differ, an unknown activation, or the mask does not fit.
    """
    divergence = divergence_map(student_logits, teacher_logits, activation)
    return rectified_mean(pseudo_label_loss_map(student_logits, teacher_logits, activation), divergence, mask)


def confident_pseudo_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    threshold: float,
    activation: str = "softmax",
    mask: Tensor | None = None,
) -> Tensor:
    """`mean_v(l_v [max_c q_vc >= threshold])`, the mean over all voxels that count, confident or not.

    What the default flags of the official script train (an ablation in the paper), l of `pseudo_label_loss_map`. For
    regions the confidence is `max(q, 1 - q)` of each.

    Args:
        threshold: of the teacher's probability, in [0, 1].
        student_logits, teacher_logits, activation, mask: as in `rectified_pseudo_label_loss`; so are the errors.
    """
    losses = pseudo_label_loss_map(student_logits, teacher_logits, activation)
    _, sure = sure_labels(teacher_logits, threshold, activation)
    return mean_where(losses * sure, mask)
