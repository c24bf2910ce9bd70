"""Learning from positive and unlabeled voxels: how often is each class, and which voxels cannot be of it?

K. Zhang & X. Zhuang, "ShapePU: A New PU Learning Framework Regularized by Global Consistency for Scribble Supervised Cardiac
Segmentation", MICCAI 2022, arXiv:2206.02118. Official code: BWGZK/ShapePU (`estimator.py`, `engine.py`).

Voxels without an annotation are a mixture of all classes with unknown shares alpha_c. These are estimated by expectation
maximization (`estimate_mixture`); the (1 - alpha_c) of the voxels that look least like class c are not of class c
(`ruled_out`); the probability of what is left is maximized (`marginal_loss`). Nothing here asks a GPU for a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def _exact(tensor: Tensor) -> Tensor:
    """float64, or float32 on Apple's GPUs, which have no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _rows(values: Tensor) -> Tensor:
    """`(B, C, *spatial)` as one row per voxel, `(B * voxels, C)`."""
    return values.movedim(1, -1).flatten(0, -2)


def sample_voxels(limit: int, mask: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """At most `limit` voxels at random, those in the mask before any other, without repeats.

    Args:
        limit: number of voxels to keep.
        mask: `(B, 1, *spatial)` bool.
        values: each `(B, C, *spatial)`.

    Returns:
        the mask and the values at the same voxels, `(1, C, min(limit, B * voxels))`. All of them, in their order, if they are not
        more than `limit`.
    """
    rows = [_rows(v) for v in (mask, *values)]
    count = rows[0].shape[0]
    if count > limit:
        order = torch.rand(count, device=mask.device) + rows[0][:, 0]
        chosen = order.topk(limit, sorted=False).indices
        rows = [r[chosen] for r in rows]
    return tuple(r.T[None] for r in rows)


def class_shares(target: Tensor, num_classes: int, mask: Tensor) -> Tensor:
    """Share of each class among the voxels in the mask, `(num_classes,)` float64; zeros where the mask is empty.

    Args:
        target: class indices `(B, 1, *spatial)`.
        mask: `(B, 1, *spatial)` bool, the annotated voxels.
    """
    counts = torch.stack([((target == c) & mask).sum() for c in range(num_classes)])
    return _exact(counts) / _exact(mask.sum().clamp(min=1))


def estimate_mixture(
    probabilities: Tensor, prior: Tensor, mask: Tensor, tolerance: float = 1e-3, max_iterations: int = 100
) -> Tensor:
    """Shares of the classes in an unlabeled sample whose class-conditional densities are those of the annotated voxels.

        alpha_c <- mean_v [ (alpha_c p_vc / g_c) / sum_k (alpha_k p_vk / g_k) ],    alpha = g in the beginning

    until the summed absolute change of a step is at most `tolerance`. Saerens, Latinne, Decaestecker, Neural Computation
    2002; ShapePU, eq. 4 to 6. A class that is not annotated (g_c = 0) keeps the share 0 (official: NaN).

    The paper estimates on the voxels without an annotation. The official code passes the annotated ones; that is reached by the
    mask.

    Args:
        probabilities: p, `(B, C, *spatial)`.
        prior: g, shares of the classes among the annotated voxels, `(C,)`.
        mask: `(B, 1, *spatial)` bool, the sample; with none the result is the prior.
        tolerance: largest change at which the iteration ends.
        max_iterations: at most this many steps; official: no limit.

    Returns:
        alpha, `(C,)` float64.
    """
    p, counted, prior = _exact(_rows(probabilities).T), _rows(mask).T, _exact(prior)
    count = counted.sum()
    ratio = torch.where(counted & (prior > 0)[:, None], p / prior[:, None], 0)  # p / g, (C, voxels)
    mixture, ended = prior, count == 0
    for _ in range(max_iterations):
        total = mixture @ ratio
        updated = mixture * (ratio @ torch.where(total > 0, 1 / total, 0)) / count.clamp(min=1)
        updated = torch.where(ended, mixture, updated)
        ended = ended | ((updated - mixture).abs().sum() <= tolerance)
        mixture = updated
        # on a GPU a step costs less than asking whether it was the last one
        if ended.device.type == "cpu" and bool(ended):
            break
    return mixture


def _ranked(values: Tensor, rank: Tensor) -> Tensor:
    """The value of this rank (0: the smallest) in each row of `(C, n)`: `(C,)`."""
    if values.device.type == "cpu":  # without the order of all the others, for which the rank must be known on the host
        return torch.stack([row.kthvalue(int(k) + 1).values for row, k in zip(values, rank)])
    return values.sort(dim=1).values.gather(1, rank[:, None])[:, 0]


def class_thresholds(probabilities: Tensor, mixture: Tensor, mask: Tensor) -> Tensor:
    """Below which probability a voxel is not of class c, if `mixture[c]` of the voxels in the mask are: `(C,)`.

    The value at position `max(floor(n (1 - alpha_c)) - 1, 0)` of the n sorted probabilities. For the background (c = 0) -inf: it is
    never ruled out.

    Args:
        probabilities: `(B, C, *spatial)`.
        mixture: alpha, `(C,)`.
        mask: `(B, 1, *spatial)` bool, the voxels without an annotation.
    """
    columns, counted = _rows(in_float32(probabilities.detach())).T, _rows(mask).T
    position = (counted.sum() * (1 - _exact(mixture))).long() - 1
    thresholds = _ranked(torch.where(counted, columns, torch.inf), position.clamp(min=0, max=columns.shape[1] - 1))
    background = torch.arange(len(thresholds), device=thresholds.device) == 0
    return torch.where(background, -torch.inf, thresholds)


def ruled_out(probabilities: Tensor, thresholds: Tensor, mask: Tensor) -> Tensor:
    """Which voxels are not of which class: bool `(B, C, *spatial)`, True where the voxel is in the mask and `p_c < t_c`."""
    shape = (1, -1, *[1] * (probabilities.ndim - 2))
    return (in_float32(probabilities.detach()) < thresholds.view(shape)) & mask


def marginal_loss(probabilities: Tensor, negative: Tensor, eps: float = 1e-12) -> Tensor:
    """What is left of the probability without the classes that are ruled out has to be 1.

        L = mean over the voxels with a class ruled out of  -log(sum_c p_c (1 - nu_c) + eps)

    ShapePU, eq. 8 (weight 1 in the official code). 0 where nothing is ruled out.

    Args:
        probabilities: p, `(B, C, *spatial)`; they sum to 1 over c.
        negative: nu, bool `(B, C, *spatial)`.
        eps: as in the official code.
    """
    left = torch.where(negative, 0, in_float32(probabilities)).sum(1, keepdim=True)
    return mean_where(-torch.log(left + eps), negative.any(1, keepdim=True))
