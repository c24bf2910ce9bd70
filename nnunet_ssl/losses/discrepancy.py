"""Losses that keep the features of two networks different.

Wu, Wei, Chen, Ren, He, Pu, "Cross-View Mutual Learning for Semi-Supervised Medical Image Segmentation", ACM Multimedia 2024.
Official code: SongwuJob/CML (`features_discrepancy_loss` of utils/CML_utils.py). Features `(B, F, *spatial)`; in float32 at least.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32


def feature_discrepancy(features: Tensor, other: Tensor, eps: float = 1e-6) -> Tensor:
    """`1 + mean_{n,v} cos(features_nv, other_nv)`: 2 where they are equal, 1 where orthogonal, 0 where opposite.

    The cosine is over the channels of each position.

    Args:
        features: `(B, F, *spatial)`.
        other: of the same shape; gets no gradient.
        eps: lower limit of the product of norms.

    Raises:
        ValueError: the shapes differ.
    """
    if features.shape != other.shape:
        raise ValueError(f"features must have one shape, got {tuple(features.shape)} and {tuple(other.shape)}")

    def normalized(x: Tensor) -> Tensor:
        # first to length 1, which float16 would not survive
        return F.normalize(in_float32(x), dim=1)

    return 1 + F.cosine_similarity(normalized(features), normalized(other.detach()), dim=1, eps=eps).mean()


def mutual_discrepancy(first: Tensor, second: Tensor, eps: float = 1e-6) -> Tensor:
    """`feature_discrepancy` in both directions, so that each network gets a gradient of its own; in [0, 4]."""
    return feature_discrepancy(first, second, eps) + feature_discrepancy(second, first, eps)
