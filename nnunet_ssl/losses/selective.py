"""Consistency in which voxels do not count alike: those are selected, or weigh more, that are certain or ambiguous.

Logits are `(B, C, *spatial)` in 2D or 3D. Everything is computed in float32 at least. No argument is detached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import predictive_entropy


def selective_mse(
    student_logits: Tensor,
    teacher_logits: Tensor,
    selected: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    channels: int | None = None,
) -> Tensor:
    """Mean squared difference of probabilities over selected voxels and channels.

        L = sum_{n,c,v} M_nv (p_ncv - q_ncv)^2 / (channels * sum_{n,v} M_nv),    p = softmax(student), q = softmax(teacher)
        L = sum_{n,c,v} M_ncv (p_ncv - q_ncv)^2 / sum_{n,c,v} M_ncv              (one selection per channel)

    0 with a gradient of 0 if nothing is selected (the official denominator has + 1e-16, which float16 does not hold).
    Yu et al., MICCAI 2019 (UA-MT), section 2.2; Xu et al., Medical Image Analysis 2023 (AC-MT).

    Args:
        student_logits: `(B, C, *spatial)`.
        teacher_logits: `(B, C, *spatial)`.
        selected: M, bool: `(B, 1, *spatial)`, or `(B, C, *spatial)` with a selection per channel.
        activation: "softmax", or "sigmoid" for regions.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all.
        channels: factor of the denominator for a selection of one channel; None: C. The released UA-MT has 2 for any number of
            classes (so C/2 times this mean), the released AC-MT has 1 for its selection by model uncertainty (C times).

    Raises:
        ValueError: shapes do not fit, `selected` or `mask` is not bool, or the activation is unknown.
    """
    allowed = {(student_logits.shape[0], c, *student_logits.shape[2:]) for c in (1, student_logits.shape[1])}
    if tuple(selected.shape) not in allowed or selected.dtype != torch.bool:
        raise ValueError(
            f"selected must be bool of a shape in {sorted(allowed)}, got {selected.dtype} of {tuple(selected.shape)}"
        )
    squared = softmax_mse(student_logits, teacher_logits, activation, mask=mask, reduction="none")
    if mask is not None:
        selected = selected & mask
    loss = mean_where(squared, selected)
    if channels is None or selected.shape[1] == squared.shape[1]:
        return loss
    return loss * (squared.shape[1] / channels)


def uncertainty_weighted_mse(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float,
    activation: str = "softmax",
    mask: Tensor | None = None,
    as_released: bool = False,
) -> Tensor:
    """Squared difference of probabilities, weighted down where either prediction is uncertain, and the uncertainty itself.

        L = mean_v [ sum_c (p_cv - q_cv)^2 / (e^{beta H(p_v)} + e^{beta H(q_v)}) + beta (H(p_v) + H(q_v)) ]

    p: student, q: teacher, H: entropy in nats. The weights are not detached. For beta > 1 the entropy is most of it: the student is
    made certain. Regions: each as the two classes inside and outside, mean over them.
    Assefa et al., CVPR 2025, arXiv:2504.04566 (UnCL of DyCON).

    Args:
        student_logits, teacher_logits: `(B, C, *spatial)`.
        beta: per nat of entropy. The largest entropy is ln C, so `beta ln 2 / ln C` means for C classes what beta does for two.
        activation: "softmax", or "sigmoid" for regions.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all.
        as_released: the released code adds a `(B, *spatial)` and a `(B, 1, *spatial)` tensor: a mean over `(B, B, *spatial)`, which
            is the same apart from rounding, with B times the memory. For classes, without a mask.

    Raises:
        ValueError: shapes do not fit, or the activation is unknown.
    """
    allowed = (student_logits.shape[0], 1, *student_logits.shape[2:])
    if student_logits.shape != teacher_logits.shape or (mask is not None and mask.shape != allowed):
        shapes = [tuple(x.shape) for x in (student_logits, teacher_logits, mask) if x is not None]
        raise ValueError(f"logits must have one shape and the mask one channel, got {shapes}")
    p, q = probabilities(student_logits, activation), probabilities(teacher_logits, activation)
    student, teacher = predictive_entropy(p, activation), predictive_entropy(q, activation)
    weighted = (p - q) ** 2 / ((beta * student).exp() + (beta * teacher).exp())
    # the other of a region's two classes, outside, has the same squared difference
    weighted = weighted.sum(1, keepdim=True) if activation == "softmax" else 2 * weighted
    entropies = beta * (student + teacher)
    if as_released:
        return (weighted.squeeze(1) + entropies).mean()
    return mean_where(weighted + entropies, mask)
