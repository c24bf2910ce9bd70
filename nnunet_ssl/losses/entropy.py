"""Entropy minimization: predictions are asked to be certain.

Grandvalet & Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004; for scribbles HiLab-git/WSL4MIS and
HiLab-git/PyMIC.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.consistency import in_float32
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.uncertainty import predictive_entropy, relative_entropy


def entropy_loss(
    p: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    *,
    relative: bool = True,
    eps: float = 1e-6,
    squeeze: float = 0.0,
) -> Tensor:
    """Mean entropy of the voxels.

        relative:  L = mean_v H(p_v) / ln C,    of regions mean_{v,c} H(p_cv) / ln 2
        else:      L = mean_v H(p_v)

    Args:
        p: probabilities `(B, C, *spatial)`.
        activation: what they came from.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        relative: in units of the largest entropy, so that a weight means the same for any number of classes.
        eps: added to p inside the logarithm; official 1e-6 (WSL4MIS), 0 (PyMIC).
        squeeze: s of `p <- (1 - 2 s) p + s` before all else; official 0 (WSL4MIS), 5e-4 (PyMIC).
    """
    p = (1 - 2 * squeeze) * in_float32(p) + squeeze
    return mean_where((relative_entropy if relative else predictive_entropy)(p, activation, eps), mask)
