"""Consistency losses: two predictions of the same voxels are asked to agree.

Arguments are logits `(B, C, *spatial)` in 2D or 3D. C is the number of classes (activation "softmax", background
included) or of regions (activation "sigmoid"). Everything is computed in float32 at least, whatever autocast is
doing, because sums over voxels and small probabilities do not survive float16.

No function detaches an argument: gradients flow to both predictions. A teacher is kept from being trained by
computing its logits without a gradient, which the trainer does.

`mask`, `(B, 1, *spatial)` bool, says which voxels count; means and sums go over these only. With no voxel counted the
loss is 0 with a gradient of 0.

The official forms are those of HiLab-git/SSL4MIS, `code/utils/losses.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import _ACTIVATIONS, in_float32, probabilities


def _check(activation: str, first: Tensor, second: Tensor, mask: Tensor | None) -> None:
    """ValueError where broadcasting would silently compute something else than was meant."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {_ACTIVATIONS}, got {activation!r}")
    if first.shape != second.shape:
        raise ValueError(f"both predictions must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    if mask is not None:
        expected = (first.shape[0], 1, *first.shape[2:])
        if mask.shape != expected or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool of shape {expected}, got {mask.dtype} of shape {tuple(mask.shape)}")


def reduce_voxels(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Mean of `values` `(B, C, *spatial)` over samples, channels and counted voxels, or the masked values."""
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    if mask is not None:
        values = values * mask
    if reduction == "none":
        return values
    if mask is None:
        return values.mean()
    # the clamp makes an empty mask a mean of 0 without asking the device how many voxels count
    return values.sum() / (mask.sum() * values.shape[1]).clamp(min=1)


def softmax_mse(
    student_logits: Tensor,
    teacher_logits: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Squared difference of probabilities.

        L = mean_{n,c,v} (p_ncv - q_ncv)^2,    p = softmax(student), q = softmax(teacher)

    Tarvainen & Valpola, NeurIPS 2017, the MSE form of their consistency cost J.

    Args:
        student_logits: `(B, C, *spatial)`.
        teacher_logits: `(B, C, *spatial)`.
        activation: "softmax", or "sigmoid" for regions.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        reduction: "mean" for a scalar; "none" for the unreduced `(B, C, *spatial)`, 0 where not counted.

    Raises:
        ValueError: shapes differ, or an unknown activation or reduction.
    """
    _check(activation, student_logits, teacher_logits, mask)
    difference = probabilities(student_logits, activation) - probabilities(teacher_logits, activation)
    return reduce_voxels(difference**2, mask, reduction)


def softmax_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's prediction.

        softmax: L = mean_{n,c,v} q ln(q / p)
        sigmoid: L = mean_{n,c,v} q ln(q / p) + (1 - q) ln((1 - q) / (1 - p))

    p: student, q: teacher. As in the official `softmax_kl_loss` the mean goes over classes too, so it is 1/C of the
    mean divergence per voxel. The official sigmoid form leaves out the second summand and so is no divergence; this
    is the one of two Bernoulli distributions per region.

    Arguments and errors are those of `softmax_mse`.
    """
    _check(activation, student_logits, teacher_logits, mask)
    student, teacher = in_float32(student_logits), in_float32(teacher_logits)
    if activation == "softmax":
        divergence = F.kl_div(F.log_softmax(student, 1), torch.softmax(teacher, 1), reduction="none")
    else:
        divergence = F.kl_div(F.logsigmoid(student), torch.sigmoid(teacher), reduction="none")
        divergence = divergence + F.kl_div(F.logsigmoid(-student), torch.sigmoid(-teacher), reduction="none")
    return reduce_voxels(divergence, mask, reduction)
