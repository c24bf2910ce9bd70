"""Entropies of the literature that no trainer has."""

from __future__ import annotations

import math

from torch import Tensor


def weighted_self_information(p: Tensor, eps: float = 1e-30) -> Tensor:
    """`-p_c log2(p_c + eps) / log2 C` of each class, `(B, C, *spatial)`: the map that ADVENT's discriminator sees.

    Args:
        p: probabilities `(B, C, *spatial)`.
    """
    return -p * (p + eps).log2() / math.log2(p.shape[1])
