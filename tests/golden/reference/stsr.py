"""The online alternative to rounds: what the winner of STSR 2025, task 1, does in each step (zhiqin1998/UMamba2, `sts25.py`)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.predictions.hard_labels import sure_labels
from nnunet_ssl.ramps import ramp_progress, ramped_weight


def consistency_weight(iteration: int, run: tuple[int, int], ramp_fraction: float, weight: float) -> float:
    """`w = weight exp(-5 (1 - t / T_r)^2)`, T_r the `ramp_fraction` of the run; `run`: epochs, iterations per epoch."""
    epochs, iterations = run
    return ramped_weight(weight, ramp_progress(iteration, epochs * iterations), ramp_fraction)


def unlabeled_probability(iteration: int, run: tuple[int, int], smallest: float, largest: float) -> float:
    """`P = min(largest, epoch / epochs + smallest)` that an iteration is an unlabeled one."""
    epochs, iterations = run
    return min(largest, (iteration // iterations) / epochs + smallest)


def perturbed_features(features: Tensor, kept: Tensor, dropout: float, factor: float, noise: Tensor) -> Tensor:
    """Whole channels dropped, voxels with the most attention set to 0, the rest multiplied by `1 + noise`.

    The attention of a voxel is the mean over the channels before dropout; it is 0 from `factor` times the sample's maximum on.

    Args:
        features: `(B, C, *spatial)`.
        kept: bool `(B, C)`, channels that stay; they are multiplied by `1 / (1 - dropout)`.
        factor: drawn from U(0.6, 0.9) in the official code.
        noise: `(C, *spatial)`, drawn from U(-0.3, 0.3), the same for all samples.
    """
    spatial = (1,) * (features.ndim - 2)
    dropped = features * kept.view(*kept.shape, *spatial) / (1 - dropout)
    attention = features.mean(1, keepdim=True)
    limit = factor * attention.flatten(1).amax(1).view(-1, 1, *spatial)
    return dropped * (attention < limit) * (1 + noise)


def confident_labels(logits: Tensor, threshold: float) -> Tensor:
    """The most probable class `(B, 1, *spatial)`, 0 (which that loss ignores) where its probability is below `threshold`."""
    labels, sure = sure_labels(logits, threshold)
    return torch.where(sure, labels, 0)
