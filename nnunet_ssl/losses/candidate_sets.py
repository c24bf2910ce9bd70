"""Losses for partial labels: every case has only some of the classes annotated, everything else is hidden in its background.

Notation: b case, v voxel, classes 1..K, A_b the annotated ones of case b, S_b = {0} and the classes that are not in A_b: what a
stored 0 can mean. z logits `(B, K+1, *spatial)`, p = softmax z. `annotated` is A as a bool matrix `(B, K)`, column k-1 for class k
(`annotation_matrix` makes it). A target is nnU-Net's: class indices `(B, 1, *spatial)`, without the ignore label; `mask`, bool
`(B, 1, *spatial)`, says which voxels count; None: all. With everything annotated `partial_label_loss` is nnU-Net's
`DC_and_CE_loss` and `partial_region_loss` its `DC_and_BCE_loss`, value and gradient. Logarithms and sums are in float32 at least.

Sources: marginal loss and exclusion loss of Shi et al., Medical Image Analysis 2021 (MIRACLE-Center/Partially-supervised-multi-
organ-segmentation); target adaptive loss of Fang & Yan, IEEE TMI 2020 (DIAL-RPI/PIPO-FAN), the same cross entropy; MultiTalent of
Ulrich et al., MICCAI 2023 (MIC-DKFZ/MultiTalent), for regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.predictions.candidates import candidate_sets
from nnunet_ssl.predictions.probabilities import in_float32

SMOOTH, FLOOR = 1e-5, 1e-8  # of nnU-Net's Dice
MULTITALENT_FLOOR = 1e-7


def _check(logits: Tensor, target: Tensor, annotated: Tensor, mask: Tensor | None, channels: int, extra: int) -> None:
    expected = (logits.shape[0], channels, *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(f"target must have shape {expected} for {tuple(logits.shape)}, got {tuple(target.shape)}")
    expected = (logits.shape[0], logits.shape[1] - extra)
    if annotated.shape != expected or annotated.dtype != torch.bool:
        raise ValueError(
            f"what is annotated must be bool of shape {expected}, got {annotated.dtype} of shape {tuple(annotated.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (logits.shape[0], 1, *logits.shape[2:])):
        raise ValueError(f"mask must be bool (B, 1, *spatial) for {tuple(logits.shape)}, got {tuple(mask.shape)}")


def _over_voxels(matrix: Tensor, like: Tensor) -> Tensor:
    """`(B, C)` -> `(B, C, 1, ...)` with as many axes as `like`."""
    return matrix.view(*matrix.shape, *[1] * (like.ndim - 2))


def log_candidate_probability(logits: Tensor, candidates: Tensor) -> Tensor:
    """`log sum_{c in candidates} p_c`, `(B, 1, *spatial)`, by logsumexp of the log softmax.

    Args:
        logits: `(B, C, *spatial)`.
        candidates: bool, `(B, C)` (one set per case) or `(B, C, *spatial)` (one per voxel); no set may be empty.
    """
    log_p = torch.log_softmax(in_float32(logits), dim=1)
    return _log_candidate_probability(log_p, candidates)


def _log_candidate_probability(log_p: Tensor, candidates: Tensor) -> Tensor:
    if candidates.ndim == 2:
        candidates = _over_voxels(candidates, log_p)
    return torch.logsumexp(log_p.masked_fill(~candidates, -torch.inf), dim=1, keepdim=True)


def candidate_cross_entropy(
    logits: Tensor, target: Tensor, annotated: Tensor, mask: Tensor | None = None, pseudo: Tensor | None = None
) -> Tensor:
    """Cross entropy of the set of classes that a voxel may have, mean over the voxels that count.

        L = -sum_v m_v log sum_{c in K_v} p_c / sum_v m_v,    K_v = {y_v} where y_v > 0, else S_b

    This is the marginal cross entropy and the target adaptive loss (without its clamp of probabilities). Its gradient at a stored 0
    raises every class of S_b in proportion to its probability: only cases that annotate a class teach where it is.

    Args:
        pseudo: accepted pseudo labels, class indices `(B, 1, *spatial)`, negative where there is none: K_v = {pseudo_v} where
            y_v = 0. Annotated voxels keep their label.

    Raises:
        ValueError: shapes or types do not fit.
    """
    _check(logits, target, annotated, mask, channels=1, extra=1)
    log_p = torch.log_softmax(in_float32(logits), dim=1)
    target = target.long()
    of_zero = _log_candidate_probability(log_p, candidate_sets(annotated))
    if pseudo is not None:
        of_zero = torch.where(pseudo >= 0, log_p.gather(1, pseudo.long().clamp(min=0)), of_zero)
    return mean_where(-torch.where(target > 0, log_p.gather(1, target), of_zero), mask)


def _dice(
    p: Tensor,
    y: Tensor,
    valid: Tensor,
    mask: Tensor | None,
    batch: bool,
    smooth: float,
    floor: float,
    all_ranks: bool,
) -> tuple[Tensor, Tensor]:
    """Soft Dice and where it counts, both `(C,)` with `batch`, else `(B, C)`; cases outside `valid` add nothing to the sums.

    Args:
        p, y: probabilities and target, `(B, C, *spatial)`.
        valid: bool `(B, C)`.
    """
    intersection, total = p * y, p + y
    if mask is not None:
        intersection, total = intersection * mask, total * mask
    axes = tuple(range(2, p.ndim))
    # not multiplied by 0: what is left out must not spread a NaN
    sums = torch.where(valid, torch.stack((intersection.sum(axes), total.sum(axes))), 0)
    count = valid.to(p.dtype)
    if batch:
        sums = torch.cat((sums.sum(1), count.sum(0, keepdim=True)))
        if all_ranks:
            sums = AllGatherGrad.apply(sums).sum(0)
        sums, count = sums[:2], sums[2].detach()
    dice = (2 * sums[0] + smooth) / (sums[1] + smooth).clamp(min=floor)
    return dice, count > 0


def partial_dice_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    mask: Tensor | None = None,
    *,
    batch: bool = False,
    background: bool = False,
    smooth: float = SMOOTH,
    all_ranks: bool = False,
) -> Tensor:
    """Minus the soft Dice of the annotated classes, as nnU-Net's; a class counts only in the cases that annotate it.

        batch:      -mean_{k annotated somewhere} (2 sum_b [k in A_b] sum_v m p y + s) / (sum_b [k in A_b] sum_v m (p + y) + s)
        otherwise:  -mean over the pairs (b, k in A_b) of the same without the sum over b

    Args:
        batch: as in the plans (`batch_dice`).
        background: also the Dice of q_0 = sum_{c in S_b} p_c with the stored zeros (the paper's sum over all classes).
        smooth: s.
        all_ranks: with `batch`, sums over the batches of all processes, as nnU-Net does under DDP.

    Raises:
        ValueError: shapes or types do not fit.
    """
    _check(logits, target, annotated, mask, channels=1, extra=1)
    p, y = torch.softmax(in_float32(logits), dim=1), one_hot(target, logits.shape[1])
    if background:
        p, valid = merged_probabilities(p, annotated), F.pad(annotated, (1, 0), value=True)
    else:
        p, y, valid = p[:, 1:], y[:, 1:], annotated
    return -mean_where(*_dice(p, y, valid, mask, batch, smooth, FLOOR, all_ranks))


def merged_probabilities(probabilities: Tensor, annotated: Tensor) -> Tensor:
    """q `(B, K+1, *spatial)`: q_0 = sum_{c in S_b} p_c, q_k = p_k for k in A_b, 0 for the others (which q_0 contains)."""
    candidates = _over_voxels(candidate_sets(annotated), probabilities)
    of_zero = torch.where(candidates, probabilities, 0).sum(1, keepdim=True)
    return torch.cat((of_zero, torch.where(candidates[:, 1:], 0, probabilities[:, 1:])), dim=1)


def summed_logits(logits: Tensor, annotated: Tensor) -> Tensor:
    """What the official marginal loss makes of the logits: z_0 + sum_{u not in A_b} z_u for background, -inf for every such u.

    No marginal probability: adding a constant to all logits changes its softmax. Published figures of the marginal loss rest on it.
    """
    hidden = _over_voxels(~annotated, logits)
    foreground = in_float32(logits[:, 1:])
    of_zero = in_float32(logits[:, :1]) + torch.where(hidden, foreground, 0).sum(1, keepdim=True)
    return torch.cat((of_zero, foreground.masked_fill(hidden, -torch.inf)), dim=1)


# ----------------------------------------------------------------------------------------------------- exclusion of organs


def excluded_voxels(target: Tensor, annotated: Tensor) -> Tensor:
    """e `(B, K+1, *spatial)`: 1 where a class cannot be, because organs exclude each other.

    e_k = [y != k] for k in A_b; e_c = [y in A_b] for background and the classes that are not annotated.
    """
    present = one_hot(target, annotated.shape[1] + 1)
    allowed = torch.where(_over_voxels(annotated, target), present[:, 1:], present[:, :1])
    return 1 - torch.cat((present[:, :1], allowed), dim=1)


def exclusion_dice(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    mask: Tensor | None = None,
    *,
    batch: bool = True,
    smooth: float = SMOOTH,
) -> Tensor:
    """Dice of p_c with e_c (`excluded_voxels`) for every class, background first: `(K+1,)`, with `batch=False` `(B, K+1)`."""
    return _exclusion_dice(logits, target, annotated, mask, None, batch, smooth)[0]


def _exclusion_dice(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    mask: Tensor | None,
    cases: Tensor | None,
    batch: bool,
    smooth: float,
    all_ranks: bool = False,
) -> tuple[Tensor, Tensor]:
    _check(logits, target, annotated, mask, channels=1, extra=1)
    e, p = excluded_voxels(target, annotated), torch.softmax(in_float32(logits), dim=1)
    cases = torch.ones_like(annotated[:, 0]) if cases is None else cases
    return _dice(p, e, cases[:, None].expand(p.shape[:2]), mask, batch, smooth, FLOOR, all_ranks)


def exclusion_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    mask: Tensor | None = None,
    *,
    cases: Tensor | None = None,
    batch: bool = True,
    background: bool = False,
    smooth: float = SMOOTH,
    all_ranks: bool = False,
) -> Tensor:
    """`mean_c exclusion_dice_c`, to be minimized: predictions keep away from where a class cannot be. In [0, 1].

    Source: Shi et al. 2021; official weight 2, without background (`do_bg` False).

    Args:
        cases: bool `(B,)`, the cases that count; None: all.
        all_ranks: as in `partial_dice_loss`.
    """
    dice, counted = _exclusion_dice(logits, target, annotated, mask, cases, batch, smooth, all_ranks)
    first = 0 if background else 1
    return mean_where(dice[..., first:], counted[..., first:])


def exclusion_cross_entropy(logits: Tensor, target: Tensor, annotated: Tensor, epsilon: float = 1.0) -> Tensor:
    """`mean_v sum_c e_c log(p_c + epsilon)`, at least 0 with epsilon = 1; in the paper, commented out in the official code."""
    p = torch.softmax(in_float32(logits), dim=1)
    return (excluded_voxels(target, annotated) * torch.log(p + epsilon)).sum(1).mean()


# ------------------------------------------------------------------------------------------------------ one scale's loss


def partial_label_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    mask: Tensor | None = None,
    *,
    batch_dice: bool = False,
    pseudo: Tensor | None = None,
    exclusion_weight: float = 0.0,
    sum_logits: bool = False,
    background: bool = False,
    smooth: float = SMOOTH,
    all_ranks: bool = False,
) -> Tensor:
    """`candidate_cross_entropy + partial_dice_loss + exclusion_weight * exclusion_loss`, at least -1.

    Args:
        pseudo: see `candidate_cross_entropy`; they do not enter the Dice.
        exclusion_weight: 2 in the official code of the marginal loss.
        sum_logits: the marginal loss as in the official code (`summed_logits`) instead of marginal probabilities.
        background, smooth: of both Dice terms, see `partial_dice_loss`.

    Raises:
        ValueError: shapes or types do not fit, or pseudo labels with `sum_logits`, where hidden classes have no probability.
    """
    if sum_logits and pseudo is not None:
        raise ValueError("pseudo labels need the probabilities of all classes, which sum_logits does not keep")
    merged = summed_logits(logits, annotated) if sum_logits else logits
    loss = candidate_cross_entropy(merged, target, annotated, mask, pseudo)
    of_dice = {"batch": batch_dice, "background": background, "smooth": smooth, "all_ranks": all_ranks}
    loss = loss + partial_dice_loss(merged, target, annotated, mask, **of_dice)
    if exclusion_weight:
        # a case that annotates everything has no exclusion term in the official code either
        cases = ~annotated.all(1)
        loss = loss + exclusion_weight * exclusion_loss(logits, target, annotated, mask, cases=cases, **of_dice)
    return loss


# ------------------------------------------------------------------------------------------------------------- regions


def partial_region_cross_entropy(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    mask: Tensor | None = None,
    *,
    reduction: str = "mean",
    proven: bool = True,
) -> Tensor:
    """Binary cross entropy of the regions that a case annotates.

    "mean": over voxels, cases and regions that count. As in nnU-Net's `DC_and_BCE_loss` the values of the R regions are added up
    instead of averaged where there is a mask (an ignore label). "sum": the sum over valid (case, region) pairs of the mean over
    voxels, MultiTalent's form, in which a region has the same gradient whatever else is in the batch.

    Args:
        logits, target: `(B, R, *spatial)`.
        valid: bool `(B, R)`: all labels of the region are annotated in this case.
        mask: bool `(B, 1, *spatial)`.
        proven: a voxel with a stored label of a region that is not valid (a part of it is annotated) proves the region there: it
            counts with the target 1; the rest of this region in this case does not count.

    Raises:
        ValueError: shapes or types do not fit, or an unknown reduction.
    """
    _check(logits, target, valid, mask, channels=logits.shape[1], extra=0)
    logits = in_float32(logits)
    values = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    pairs = _over_voxels(valid, logits)
    counted = pairs | (target > 0) if proven else pairs
    values = torch.where(counted if mask is None else counted & mask, values, 0)
    axes = tuple(range(2, values.ndim))
    voxels = torch.ones_like(values[:, :1], dtype=torch.bool) if mask is None else mask
    voxels = voxels.sum(axes)
    if reduction == "sum":
        return (values.sum(axes) / voxels.clamp(min=1)).sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    counted = (valid * voxels).sum()
    # what is proven adds to this in proportion to its voxels, also where no pair is valid
    counted = torch.where(counted > 0, counted, voxels.sum()).clamp(min=1)
    return (1 if mask is None else values.shape[1]) * values.sum() / counted


def partial_region_dice_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    mask: Tensor | None = None,
    *,
    batch: bool = False,
    reduction: str = "mean",
    all_ranks: bool = False,
) -> Tensor:
    """Minus the soft Dice of the regions, of each over the cases where it is valid.

    "mean": over the regions valid somewhere (with `batch`) or over valid pairs, with nnU-Net's constants. "sum": their sum without
    smoothing, as MultiTalent.

    Raises:
        ValueError: shapes or types do not fit, or an unknown reduction.
    """
    _check(logits, target, valid, mask, channels=logits.shape[1], extra=0)
    p = torch.sigmoid(in_float32(logits))
    y = target.to(p.dtype)
    if reduction == "sum":
        dice, counted = _dice(p, y, valid, mask, batch, 0.0, MULTITALENT_FLOOR, all_ranks)
        return -torch.where(counted, dice, 0).sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    return -mean_where(*_dice(p, y, valid, mask, batch, SMOOTH, FLOOR, all_ranks))


def partial_region_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    mask: Tensor | None = None,
    *,
    batch_dice: bool = False,
    reduction: str = "mean",
    proven: bool = True,
    all_ranks: bool = False,
) -> Tensor:
    """`partial_region_cross_entropy + partial_region_dice_loss`: MultiTalent's loss with `reduction="sum", proven=False`."""
    cross_entropy = partial_region_cross_entropy(logits, target, valid, mask, reduction=reduction, proven=proven)
    dice = partial_region_dice_loss(
        logits, target, valid, mask, batch=batch_dice, reduction=reduction, all_ranks=all_ranks
    )
    return cross_entropy + dice
