"""Consistency of the predictions of a network's scales with their mean, weighed by how far each is from it.

Luo, Liao, Chen, Song, Chen, Zhang, Chen, Wang, Zhang, "Efficient Semi-supervised Gross Target Volume of Nasopharyngeal Carcinoma
Segmentation via Uncertainty Rectified Pyramid Consistency", MICCAI 2021, arXiv:2012.07042 (URPC). Official code: HiLab-git/SSL4MIS.

Logits are `(B, C, *spatial)` in 2D or 3D, C classes ("softmax") or regions ("sigmoid"). In float32 at least, from
log-probabilities, so that a probability of 0 has a gradient. Nothing is detached: gradients go through the mean, the
divergences and the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def upsampled(scales: Sequence[Tensor], mode: str = "linear") -> list[Tensor]:
    """Logits of all scales at the resolution of the first one.

    Args:
        scales: each `(B, C, *spatial)`, highest resolution first.
        mode: "linear" (the official 3D code), or "nearest" (its 2D code).

    Raises:
        ValueError: another mode.
    """
    modes = {"linear": {4: "bilinear", 5: "trilinear"}[scales[0].ndim], "nearest": "nearest"}
    if mode not in modes:
        raise ValueError(f"mode must be one of {sorted(modes)}, got {mode!r}")
    size = scales[0].shape[2:]
    return [z if z.shape[2:] == size else F.interpolate(in_float32(z), size, mode=modes[mode]) for z in scales]


def _log_probabilities(logits: Tensor, activation: str) -> Tensor:
    """`(B, C, *spatial)` for classes; `(B, R, *spatial, 2)`, inside and outside, for regions."""
    if activation == "softmax":
        return F.log_softmax(in_float32(logits), 1)
    if activation == "sigmoid":
        logits = in_float32(logits)
        return torch.stack((F.logsigmoid(logits), F.logsigmoid(-logits)), -1)
    raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")


def pyramid_divergences(scales: Sequence[Tensor], activation: str = "softmax") -> list[Tensor]:
    """`D_s = KL(q || p_s)` of each voxel, q the mean of the S predictions p_s.

    Args:
        scales: logits of one resolution, S times `(B, C, *spatial)`.

    Returns:
        S times `(B, 1, *spatial)`; one per region, `(B, R, *spatial)`.
    """
    logs = [_log_probabilities(z, activation) for z in scales]
    mean = torch.logsumexp(torch.stack(logs), 0) - math.log(len(logs))
    axis = {"softmax": 1, "sigmoid": -1}[activation]
    divergences = [(mean.exp() * (mean - log)).sum(axis) for log in logs]
    return [d.unsqueeze(1) for d in divergences] if activation == "softmax" else divergences


def pyramid_terms(
    scales: Sequence[Tensor], activation: str = "softmax", mask: Tensor | None = None, eps: float = 1e-8
) -> list[Tensor]:
    """The rectified consistency of each scale with the mean of all.

        L_s = mean_{n,c,v} w_s (q - p_s)^2 / (mean_{n,v} w_s + eps) + mean_{n,v} D_s,    w_s = exp(-D_s)

    Args:
        scales: logits of one resolution, each `(B, C, *spatial)`; see `upsampled`.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.

    Raises:
        ValueError: unknown activation, or a mask that does not fit.
    """
    probabilities = [_log_probabilities(z, activation).exp() for z in scales]
    if activation == "sigmoid":
        probabilities = [p[..., 0] for p in probabilities]
    mean = torch.stack(probabilities).mean(0)
    terms = []
    for p, divergence in zip(probabilities, pyramid_divergences(scales, activation)):
        weight = torch.exp(-divergence)
        rectified = mean_where((mean - p) ** 2 * weight, mask) / (mean_where(weight, mask) + eps)
        terms.append(rectified + mean_where(divergence, mask))
    return terms


def pyramid_consistency(scales: Sequence[Tensor], activation: str = "softmax", mask: Tensor | None = None) -> Tensor:
    """The mean of `pyramid_terms` over the scales; arguments as there."""
    return torch.stack(pyramid_terms(scales, activation, mask)).mean()
