"""Losses of methods that learn from single annotated voxels.

Logits `(B, C, *spatial)` in 2D or 3D, activation "softmax" for classes (background included) or "sigmoid" for regions.
Logarithms and sums are in float32 at least. No function detaches an argument.

Zhai et al., "PA-Seg", IEEE TMI 2023, arXiv:2208.05669 (HiLab-git/PA-Seg); Laradji et al., "A Weakly Supervised Consistency-based
Learning Method for COVID-19 Segmentation in CT Images", WACV 2021, arXiv:2007.02180 (IssamLaradji/covid19_weak_supervision).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def mirror_consistency(
    logits: Tensor,
    logits_of_mirrored: Tensor,
    axes: Sequence[int],
    activation: str | None = "softmax",
    mask: Tensor | None = None,
) -> Tensor:
    """Mean absolute difference of the prediction and the mirrored-back prediction of the mirrored image; gradients through both.

        L = mean_{n,c,v} | p(x) - M p(M x) |,    M: mirroring along `axes`

    Args:
        logits: of x, `(B, C, *spatial)`.
        logits_of_mirrored: of M x, of the same shape.
        axes: axes of the tensors.
        activation: p is the softmax or sigmoid of the logits; None: p are the logits themselves, as WSCL has it for a single one.
            An offset and the scale of a softmax's logits hardly change it, so for classes this would punish confidence.
        mask: `(B, 1, *spatial)` bool, voxels of x that count; all if None.

    Raises:
        ValueError: shapes differ.
    """
    if logits.shape != logits_of_mirrored.shape:
        raise ValueError(
            f"both predictions must have one shape, got {tuple(logits.shape)} and {tuple(logits_of_mirrored.shape)}"
        )
    first, second = (
        in_float32(x) if activation is None else probabilities(x, activation) for x in (logits, logits_of_mirrored)
    )
    return mean_where((torch.flip(second, list(axes)) - first).abs(), mask)
