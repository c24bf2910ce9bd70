"""Beliefs and uncertainty of a prediction as subjective logic has them, their fusion, and a weight of voxels that follows.

MEDL, arXiv:2505.12418 (BIBM 2024). No official code. Evidence `(B, C, *spatial)` of at least 0; beliefs `(B, C, *spatial)` and
uncertainty `(B, 1, *spatial)` sum up to 1 in every voxel. In float32, or float64 for float64 logits. What the paper leaves open and
this module decides: the evidence is softplus of the logits; fused beliefs and uncertainty are divided by their common sum.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32, most_probable


def beliefs(logits: Tensor, activation: str = "softmax") -> tuple[Tensor, Tensor]:
    """`b_c = e_c / S`, `u = C / S` with evidence `e = softplus(logits)` and `S = sum_c (e_c + 1)`.

    Args:
        logits: `(B, C, *spatial)`.
        activation: "softmax"; "sigmoid": each region and its complement are two classes, with logits z and -z.

    Returns:
        `(B, C, *spatial)` and `(B, 1, *spatial)`; for regions beliefs `(B, R, 2, *spatial)`, in and outside, and `(B, R, 1,
        *spatial)`.
    """
    logits, axis = in_float32(logits), 1
    if activation == "sigmoid":
        logits, axis = torch.stack((logits, -logits), 2), 2
    evidence = F.softplus(logits)
    total = (evidence + 1).sum(axis, keepdim=True)
    return evidence / total, logits.shape[axis] / total


def fused_beliefs(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], axis: int = 1, dempster: bool = False
) -> tuple[Tensor, Tensor]:
    """The class-aware fusion of two opinions.

        b_c <- b1_c b2_c + k (b1_c u2 + b2_c u1),    u <- u1 u2,    both divided by their common sum; k = 1 / (1 + C)

    Args:
        first, second: beliefs and uncertainty of two networks, as `beliefs` gives them.
        axis: of the classes; 2 for regions.
        dempster: k = 1, Dempster's rule.

    Returns:
        fused beliefs and uncertainty of the same shapes.
    """
    (b1, u1), (b2, u2) = first, second
    factor = 1.0 if dempster else 1 / (1 + b1.shape[axis])
    belief, uncertainty = b1 * b2 + factor * (b1 * u2 + b2 * u1), u1 * u2
    total = belief.sum(axis, keepdim=True) + uncertainty
    return belief / total, uncertainty / total


def believed_labels(belief: Tensor, activation: str = "softmax") -> Tensor:
    """The label map of fused beliefs, in the form of `hard_labels`: the class, or the regions, that are believed in most."""
    return most_probable(belief) if activation == "softmax" else belief[:, :, 0] > belief[:, :, 1]


def uncertainty_ranks(uncertainty: Tensor, mask: Tensor | None = None) -> Tensor:
    """The rank of each voxel in its sample (of a region: in its channel) by rising uncertainty, int64, 1 to V.

    1 is the most certain voxel; of equal ones the first comes first. Voxels that are not in the mask come after all others.
    """
    counted = uncertainty if mask is None else uncertainty.masked_fill(~mask, math.inf)
    flat = counted.flatten(2)
    order = flat.argsort(dim=-1, stable=True)
    positions = torch.arange(1, flat.shape[-1] + 1, device=flat.device).expand_as(order)
    return torch.zeros_like(order).scatter_(-1, order, positions).view(uncertainty.shape)


def asymptotic_weights(uncertainty: Tensor, progress: float, strength: float, mask: Tensor | None = None) -> Tensor:
    """`1 + X tanh((2 h / V - 1) (2 q - 1))`: certain voxels weigh more in the first half of the training, uncertain ones in the
    second.

    h: `uncertainty_ranks`. The paper says ranks are descending and the certain voxels come first, which contradict each other;
    here the latter holds.

    Args:
        uncertainty: `(B, M, *spatial)`.
        progress: q, share of the training that is done; the paper: epochs.
        strength: X, in [0, 1); not given in the paper.
        mask: bool `(B, 1, *spatial)`, voxels that are ranked, V in number, over which the mean of the weights is 1 up to 1 / V. All
            if None; the weight of others is 0.
    """
    dtype = uncertainty.dtype if uncertainty.dtype == torch.float64 else torch.float32
    ranks = uncertainty_ranks(uncertainty, mask).to(dtype)
    voxels: int | Tensor = math.prod(uncertainty.shape[2:])
    if mask is not None:
        voxels = mask.flatten(2).sum(2).clamp(min=1).view(-1, 1, *[1] * (uncertainty.ndim - 2))
    weights = 1 + strength * torch.tanh((2 * ranks / voxels - 1) * (2 * progress - 1))
    return weights if mask is None else weights * mask
