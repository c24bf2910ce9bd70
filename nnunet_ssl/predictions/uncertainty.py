"""How uncertain a prediction is, and which voxels are certain or ambiguous enough.

Probabilities are `(B, C, *spatial)` in 2D or 3D: C classes (activation "softmax", background included) or C regions
(activation "sigmoid"). An entropy is `(B, 1, *spatial)` of class probabilities and `(B, C, *spatial)`, one binary entropy per
region, of region probabilities. Everything is computed in float32 at least; natural logarithms.

Yu et al., "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation", MICCAI 2019 (UA-MT);
Xu et al., "Ambiguity-selective consistency regularization ...", Medical Image Analysis 2023 (AC-MT).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import sigmoid_rampup


def mean_probabilities(passes: Iterable[Tensor], samples: int, activation: str = "softmax") -> Tensor:
    """`mu = mean_t softmax(logits_t)`: the mean prediction of stochastic passes over the same samples.

    Only the sum is kept, so a generator of passes needs the memory of one.

    Args:
        passes: logits `(R * samples, C, *spatial)` per call of the network, where R repetitions of the batch went through it at
            once: rows u, samples + u, ... belong to sample u.
        samples: number of samples.
        activation: "softmax", or "sigmoid" for regions.

    Returns:
        `(samples, C, *spatial)`.

    Raises:
        ValueError: there is no pass, or its rows are not a multiple of `samples`.
    """
    total, count = None, 0
    for logits in passes:
        if samples < 1 or logits.shape[0] == 0 or logits.shape[0] % samples:
            raise ValueError(f"a pass of {logits.shape[0]} rows is no repetition of {samples} samples")
        p = probabilities(logits, activation).unflatten(0, (-1, samples))
        count += p.shape[0]
        total = p.sum(0) if total is None else total + p.sum(0)
    if total is None:
        raise ValueError("there is no pass to average")
    return total / count


def predictive_entropy(p: Tensor, activation: str = "softmax", eps: float = 1e-6) -> Tensor:
    """Entropy of each voxel in nats.

        softmax: H = -sum_c p_c ln(p_c + eps),                              (B, 1, *spatial)
        sigmoid: H_c = -p_c ln(p_c + eps) - (1 - p_c) ln(1 - p_c + eps),    (B, C, *spatial)

    Args:
        p: probabilities `(B, C, *spatial)`, float32 or float64.
        activation: what they came from.
        eps: keeps the logarithm finite; 1e-6 in the official code, which makes H smaller than the entropy by up to C * eps.
    """
    information = -p * (p + eps).log()
    if activation == "softmax":
        return information.sum(1, keepdim=True)
    return information - (1 - p) * (1 - p + eps).log()


def max_entropy(channels: int, activation: str = "softmax") -> float:
    """Largest `predictive_entropy`: ln C of C classes, ln 2 of each region."""
    return math.log(channels if activation == "softmax" else 2)


def relative_entropy(p: Tensor, activation: str = "softmax", eps: float = 1e-6, channels: int | None = None) -> Tensor:
    """`predictive_entropy / max_entropy`: entropy in units of the largest, in [0, 1].

    Args:
        p, activation, eps: as in `predictive_entropy`.
        channels: whose largest entropy is the unit; None: those of p. Some released scripts have a number of their own.
    """
    return predictive_entropy(p, activation, eps) / max_entropy(channels or p.shape[1], activation)


def ramped_threshold(progress: float, start: float, end: float, maximum: float = 1.0) -> float:
    """`(start + (end - start) exp(-5 (1 - progress)^2)) * maximum`: a threshold of the entropy that moves during training.

    UA-MT: 0.75 to 1 times the largest entropy; AC-MT: 0.75 to 0.95 (entropy), 0.75 to 0.9 (model uncertainty).

    Args:
        progress: share of the run that is done.
        start: threshold at the start in units of `maximum`. The ramp begins at exp(-5) = 0.0067, not 0.
        end: threshold at the end in units of `maximum`.
        maximum: `max_entropy`.
    """
    return (start + (end - start) * sigmoid_rampup(progress)) * maximum


def select_certain(entropy: Tensor, threshold: float) -> Tensor:
    """`H < threshold`, bool of the entropy's shape, without a gradient: what UA-MT learns from."""
    return entropy.detach() < threshold


def select_ambiguous(entropy: Tensor, threshold: float) -> Tensor:
    """`H >= threshold`, bool of the entropy's shape, without a gradient: what AC-MT learns from."""
    return entropy.detach() >= threshold
