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

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import _ACTIVATIONS, in_float32, probabilities
from nnunet_ssl.predictions.uncertainty import predictive_entropy


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
    if reduction == "mean":
        return mean_where(values, mask)
    return values if mask is None else values * mask


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


def symmetric_kl(
    first_logits: Tensor,
    second_logits: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`(KL(p || q) + KL(q || p)) / 2`, mean over samples, classes and voxels; gradients go through both directions.

        softmax: L = mean_{n,c,v} (p - q) (ln p - ln q) / 2
        sigmoid: L = mean_{n,c,v} (p - q) (z_p - z_q) / 2,    z: logits

    Liang et al., "R-Drop", NeurIPS 2021, eq. 2; dropreg/R-Drop and HiLab-git/SSL4MIS (`compute_kl_loss`). The sum over all
    elements, as in the first of them, is that of reduction "none". From log-probabilities, so that a p of 0 has a gradient.

    Arguments and errors are those of `softmax_mse`.
    """
    _check(activation, first_logits, second_logits, mask)
    first, second = in_float32(first_logits), in_float32(second_logits)
    difference = probabilities(first, activation) - probabilities(second, activation)
    if activation == "softmax":
        first, second = F.log_softmax(first, 1), F.log_softmax(second, 1)
    return reduce_voxels(difference * (first - second) / 2, mask, reduction)


def jensen_shannon(
    first_logits: Tensor, second_logits: Tensor, activation: str = "softmax", mask: Tensor | None = None
) -> Tensor:
    """`H((p + q) / 2) - (H(p) + H(q)) / 2` of each voxel in nats, mean over the voxels; in [0, ln 2].

    Regions: of two Bernoulli distributions each, mean over the regions too. Qiao et al., "Deep Co-Training", ECCV 2018, eq. 2.

    Arguments and errors are those of `softmax_mse`.
    """
    _check(activation, first_logits, second_logits, mask)
    p, q = probabilities(first_logits, activation), probabilities(second_logits, activation)
    tiny = torch.finfo(p.dtype).tiny  # keeps the logarithm of 0 finite; smaller than any rounding
    mean, first, second = (predictive_entropy(x, activation, tiny) for x in ((p + q) / 2, p, q))
    return reduce_voxels(mean - (first + second) / 2, mask, "mean")


def symmetric_mse(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mean_{n,c,v} (first - second)^2` of two `(B, C, *spatial)` tensors as they are: no activation is applied.

    For probabilities that are no softmax (mixtures), or for logits as in the official `symmetric_mse_loss`. Mask and errors are
    those of `softmax_mse`.
    """
    _check("softmax", first, second, mask)
    return reduce_voxels((in_float32(first) - in_float32(second)) ** 2, mask, "mean")


def mutual_mse(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """`(mse(first, stop(second)) + mse(stop(first), second)) / 2`: the value of `symmetric_mse` with half of its gradient.

    Each of two predictions is the target of the other. HiLab-git/SSL4MIS (`train_deep_co_training_2D.py`). Arguments as there.
    """
    return (symmetric_mse(first, second.detach(), mask) + symmetric_mse(first.detach(), second, mask)) / 2
