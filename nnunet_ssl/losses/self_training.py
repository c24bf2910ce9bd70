"""Cross entropy and Dice with hard labels that count where their source was sure.

The voxels that are left out stay in the denominator of the cross entropy: a mean over the few sure voxels of a young network is
a mean over background, at full weight. The Dice is over the classes that occur, because a class that a patch does not show has a
Dice of 0 for every prediction that is not exactly 0.

Logits `(B, C, *spatial)` in 2D or 3D; labels as `hard_labels` gives them, `(B, 1, *spatial)` classes or `(B, C, *spatial)`
regions. Cross entropy on confident hard labels: Sohn et al., "FixMatch", NeurIPS 2020, eq. 4.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def _check(logits: Tensor, labels: Tensor, counted: Tensor, activation: str) -> None:
    expected = (logits.shape[0], 1 if activation == "softmax" else logits.shape[1], *logits.shape[2:])
    if labels.shape != expected or counted.shape != expected:
        raise ValueError(
            f"labels and mask must have shape {expected} for {tuple(logits.shape)}, got {tuple(labels.shape)} and "
            f"{tuple(counted.shape)}"
        )


def confident_cross_entropy(
    logits: Tensor, labels: Tensor, sure: Tensor, inside: Tensor, activation: str = "softmax"
) -> Tensor:
    """`sum_v M_v ce_v / sum_v I_v` with M = sure and inside, I = inside; regions: the mean of it over the regions.

    0 with a gradient of 0 where nothing counts.

    Args:
        sure: bool, of the shape of `labels`.
        inside: `(B, 1, *spatial)` bool, the voxels of the image.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(logits, labels, sure, activation)
    logits = in_float32(logits)
    if activation == "softmax":
        values = F.cross_entropy(logits, labels[:, 0].long(), reduction="none")[:, None]
    else:
        values = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return mean_where(torch.where(sure, values, 0), inside)


def _sums(values: tuple[Tensor, ...], counted: Tensor, all_ranks: bool) -> Tensor:
    """Sums of each of `values` `(B, C, *spatial)` over voxels that count and patches, `(numbers, C)`."""
    axes = (0, *range(2, counted.ndim))
    sums = torch.stack([torch.where(counted, z, 0).sum(axes) for z in values])
    return AllGatherGrad.apply(sums).sum(0) if all_ranks else sums


def present_dice_loss(
    logits: Tensor,
    labels: Tensor,
    sure: Tensor,
    inside: Tensor,
    activation: str = "softmax",
    all_ranks: bool = False,
) -> Tensor:
    """`mean_c 1 - (2 sum_v M p y + s) / (sum_v M (p + y) + s)` over the foreground classes c that M y has in the batch, s = 1e-5.

    Sums go over voxels and batch. 0 with a gradient of 0 where no class occurs. Arguments as in `confident_cross_entropy`, and

    Args:
        all_ranks: sums go over the batches of all processes, as nnU-Net's batch Dice under DDP.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(logits, labels, sure, activation)
    p, y = probabilities(logits, activation), one_hot(labels, logits.shape[1], activation)
    first = 1 if activation == "softmax" else 0
    overlap, predicted, size = _sums((p * y, p, y), sure & inside, all_ranks)[:, first:]
    present = size > 0
    losses = 1 - (2 * overlap + 1e-5) / (predicted + size + 1e-5)
    return mean_where(losses, present)


def confident_dice_loss(
    logits: Tensor,
    labels: Tensor,
    sure: Tensor,
    inside: Tensor,
    activation: str = "softmax",
    all_ranks: bool = False,
) -> Tensor:
    """`mean_c 1 - (2 sum_v M p y + s) / (sum_v M (p^2 + y^2) + s)` over all classes, background included, s = 1e-5.

    Sums go over voxels and batch. A class that M y does not have is pushed down by it. Yang et al., "UniMatch", CVPR 2023, its code
    for medical images. Arguments as in `present_dice_loss`.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(logits, labels, sure, activation)
    p, y = probabilities(logits, activation), one_hot(labels, logits.shape[1], activation)
    overlap, sizes = _sums((p * y, p * p + y * y), sure & inside, all_ranks)
    return (1 - (2 * overlap + 1e-5) / (sizes + 1e-5)).mean()


Form: TypeAlias = Literal["both", "cross_entropy", "dice"]
FORMS = get_args(Form)


def self_training_loss(
    logits: Tensor,
    labels: Tensor,
    sure: Tensor,
    inside: Tensor,
    activation: str = "softmax",
    form: str = "both",
    all_ranks: bool = False,
) -> Tensor:
    """`confident_cross_entropy + present_dice_loss`; maps of other spatial sizes are resized to the logits, nearest neighbor.

    Args:
        form: "both"; or "cross_entropy" alone; or "dice", `confident_dice_loss` alone.
        all_ranks: of the Dice, as in `present_dice_loss`.

    Raises:
        ValueError: shapes do not fit, or another form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    labels, sure, inside = (resize_nearest(m, logits.shape[2:]) for m in (labels, sure, inside))
    if form == "dice":
        return confident_dice_loss(logits, labels, sure, inside, activation, all_ranks)
    cross_entropy = confident_cross_entropy(logits, labels, sure, inside, activation)
    if form == "cross_entropy":
        return cross_entropy
    return cross_entropy + present_dice_loss(logits, labels, sure, inside, activation, all_ranks)
