"""Consistency on selected voxels: a selection, certain or ambiguous, says where two predictions are asked to agree.

Logits are `(B, C, *spatial)` in 2D or 3D. Everything is computed in float32 at least. No argument is detached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.consistency import softmax_mse


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
        activation: "softmax", or "sigmoid" for region heads.
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
    per_voxel = squared.shape[1] if channels is None else channels
    factor = 1 if selected.shape[1] == squared.shape[1] else per_voxel
    # where, not a product: what is not selected has no influence, whatever its value
    total = torch.where(selected, squared, squared.new_zeros(())).sum()
    return total / (factor * selected.sum()).clamp(min=1)
