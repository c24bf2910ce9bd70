"""Cross entropy and Dice on a part of the voxels, each part with its own voxel count.

Logits `(B, C, *spatial)` in 2D or 3D; C classes (activation "softmax", background included) or regions ("sigmoid"). Targets as
nnU-Net's: class indices `(B, 1, *spatial)` for classes, 0/1 per region `(B, C, *spatial)` for regions. `mask`, `(B or 1, 1,
*spatial)`, says which voxels count (bool) or how much (weights of at least 0); None: all. Sums over voxels and logarithms are
in float32 at least.

Source: `mix_loss`, `mask_DiceLoss` and `DiceLoss` of DeepMed-Lab-ECNU/BCP (Bai et al., CVPR 2023); with weights
`supervison_loss` of SongwuJob/CML.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def split_ignored(target: Tensor, ignore_label: int | None, regions: bool) -> tuple[Tensor, Tensor | None]:
    """nnU-Net's target without the ignore label, and the mask of the voxels that are annotated.

    Args:
        target: class indices `(B, 1, *spatial)`; with regions `(B, R, *spatial)`, the last channel being the ignored voxels
            when there is an ignore label.
        ignore_label: None when the data set has none.
        regions: whether the target is one of regions.

    Returns:
        the target (ignored voxels are background, without the ignore channel), and the mask `(B, 1, *spatial)`, None without an
        ignore label.
    """
    if ignore_label is None:
        return target, None
    if regions:
        return target[:, :-1], target[:, -1:] == 0
    annotated = target != ignore_label
    return torch.where(annotated, target, torch.zeros_like(target)), annotated


def one_hot(target: Tensor, channels: int, activation: str = "softmax") -> Tensor:
    """Target in float32 with one channel per class or region, `(B, C, *spatial)`."""
    if activation == "sigmoid":
        return target.float()
    classes = torch.arange(channels, device=target.device).view(1, -1, *[1] * (target.ndim - 2))
    return (target == classes).float()


def _check(logits: Tensor, target: Tensor, mask: Tensor | None, activation: str) -> None:
    expected = (logits.shape[0], 1 if activation == "softmax" else logits.shape[1], *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(f"target must have shape {expected} for {tuple(logits.shape)}, got {tuple(target.shape)}")
    if mask is not None and (mask.shape[1:] != (1, *logits.shape[2:]) or mask.shape[0] not in (1, logits.shape[0])):
        raise ValueError(
            f"mask must have shape (B or 1, 1, *spatial) for {tuple(logits.shape)}, got {tuple(mask.shape)}"
        )


def masked_cross_entropy(
    logits: Tensor, target: Tensor, mask: Tensor | None = None, activation: str = "softmax"
) -> Tensor:
    """`sum_v M ce / sum_v M`, ce the cross entropy of classes, or of a region averaged over the regions; 0 where no voxel counts.

    Raises:
        ValueError: target or mask do not fit the logits.
    """
    _check(logits, target, mask, activation)
    logits = in_float32(logits)
    if activation == "softmax":
        values = F.cross_entropy(logits, target[:, 0].long(), reduction="none")[:, None]
    else:
        values = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").mean(
            1, keepdim=True
        )
    if mask is None:
        return values.mean()
    mask = mask.expand(values.shape)
    return (values * mask).sum() / (mask.sum() + 1e-16)


def masked_dice_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    activation: str = "softmax",
    *,
    batch: bool = False,
    squared: bool = False,
    background: bool = True,
    smooth: float = 1e-5,
    all_ranks: bool = False,
) -> Tensor:
    """Soft Dice loss of the voxels in the mask.

        L = mean [1 - (2 sum_v M p y + s) / (sum_v M (p + y) + s)],    s = smooth; a class that no counted voxel has or gets: 0

    Official code for LA and Pancreas: the defaults; for ACDC: `batch=True, squared=True, smooth=1e-10`. nnU-Net's (plus 1):
    `background=False` for classes, `batch` as the plans say.

    Args:
        batch: sums go over the batch as well and the mean over channels; else the mean over samples and channels.
        squared: `p^2 + y^2` in the denominator instead of `p + y`.
        background: False leaves out channel 0 (classes only; a region is never background).
        smooth: s.
        all_ranks: with `batch`, sum over the batches of all processes, as nnU-Net does under DDP.

    Raises:
        ValueError: target or mask do not fit the logits.
    """
    _check(logits, target, mask, activation)
    p, y = probabilities(logits, activation), one_hot(target, logits.shape[1], activation)
    if not background and activation == "softmax":
        p, y = p[:, 1:], y[:, 1:]
    intersection, union = p * y, (p * p + y * y if squared else p + y)
    if mask is not None:
        intersection, union = intersection * mask, union * mask
    axes = tuple(range(2, p.ndim))
    sums = torch.stack((intersection.sum(axes), union.sum(axes)))
    if batch:
        sums = sums.sum(1)
        if all_ranks:
            sums = AllGatherGrad.apply(sums).sum(0)
    return (1 - (2 * sums[0] + smooth) / (sums[1] + smooth)).mean()


def region_loss(
    logits: Tensor, target: Tensor, mask: Tensor | None = None, activation: str = "softmax", **dice
) -> Tensor:
    """`0.5 * (masked_cross_entropy + masked_dice_loss)`; `dice`: the options of the Dice loss."""
    cross_entropy = masked_cross_entropy(logits, target, mask, activation)
    return 0.5 * (cross_entropy + masked_dice_loss(logits, target, mask, activation, **dice))
