"""Agreement of two predictions as the angle between their class probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def cosine_distance(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the cosine of the angle between two vectors of class probabilities, mean over voxels.

        L = mean_{n,v} [1 - sum_c p_c q_c / (|p| |q|)]

    The consistency of CycleMix (Zhang & Zhuang, CVPR 2022, eq. of the local and the global consistency) and of ShapePU (MICCAI
    2022); official code: BWGZK/CycleMix and BWGZK/ShapePU. Gradients flow to both arguments; no activation is applied. A vector of
    zeros has the cosine 0 with any other one and gets no gradient.

    Args:
        first, second: p and q, probabilities `(B, C, *spatial)`.
        mask: `(B or 1, 1, *spatial)` bool, voxels that count; all if None. Where none counts the loss is 0.

    Raises:
        ValueError: the shapes differ, or the mask does not fit.
    """
    if first.shape != second.shape:
        raise ValueError(f"both predictions must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    cosine = F.cosine_similarity(in_float32(first), in_float32(second), dim=1, eps=1e-8)
    return mean_where(1 - cosine[:, None], mask)
