"""Perturbations of the features that a decoder gets from its encoder.

Ouali, Hudelot, Tami, "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020, arXiv:2003.09005.
Official code: yassouali/CCT; for three of them in a U-Net HiLab-git/SSL4MIS. Features `(B, F, *spatial)`, 2D or 3D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def noisy_features(features: Tensor, noise: Tensor) -> Tensor:
    """`x + x n`: noise in proportion to the feature, n `(F, *spatial)`, the same for all samples."""
    return features * noise + features


def without_strongest(features: Tensor, threshold: float | Tensor) -> Tensor:
    """0 at the positions with the strongest features: `x [a < u max a]`, a the mean over the channels, u the threshold.

    Where no position has a positive a (features of LeakyReLU can be like that), nothing is dropped; the official code would
    drop all.
    """
    strength = features.mean(1, keepdim=True)
    largest = strength.flatten(1).amax(1).view(-1, *[1] * (features.ndim - 1))
    return features * ((strength < threshold * largest) | (largest <= 0))


def kept_elements(features: Tensor, kept: Tensor, p: float) -> Tensor:
    """`x m / (1 - p)`: dropout of single elements, m bool of the features' shape, False with probability p."""
    return features * kept / (1 - p)


class FeatureNoise:
    """`noisy_features` with noise uniform in [-limit, limit], drawn for each stage. Official code: 0.3."""

    def __init__(self, limit: float):
        self.limit = limit

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [noisy_features(x, torch.empty_like(x[0]).uniform_(-self.limit, self.limit)) for x in features]


class FeatureDropout:
    """`without_strongest` with a threshold uniform in `limits`, drawn for each stage. Official code: 0.7 to 0.9."""

    def __init__(self, limits: tuple[float, float]):
        self.limits = limits

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [without_strongest(x, torch.empty((), device=x.device).uniform_(*self.limits)) for x in features]


class ElementDropout:
    """`kept_elements` with a mask drawn for each stage. SSL4MIS: p = 0.3."""

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ValueError(f"the dropout probability must be in [0, 1), got {p}")
        self.p = p

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [kept_elements(x, torch.rand_like(x) >= self.p, self.p) for x in features]
