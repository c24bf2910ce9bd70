"""Entropy minimization: predictions are asked to be certain.

Grandvalet & Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004; for segmentation Vu et al. (ADVENT), CVPR
2019, and HiLab-git/SSL4MIS; for scribbles HiLab-git/WSL4MIS and HiLab-git/PyMIC.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32
from nnunet_ssl.predictions.uncertainty import predictive_entropy, relative_entropy


def entropy_loss(
    p: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    *,
    relative: bool = True,
    eps: float = 1e-6,
    squeeze: float = 0.0,
    channels: int | None = None,
) -> Tensor:
    """Mean entropy of the voxels.

        relative:  L = mean_v H(p_v) / ln C,    of regions mean_{v,c} H(p_cv) / ln 2
        else:      L = mean_v H(p_v)

    Args:
        p: probabilities `(B, C, *spatial)`.
        activation: what they came from.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        relative: in units of the largest entropy, so that a weight means the same for any number of classes.
        eps: added to p inside the logarithm; official code: 1e-6 (WSL4MIS), 0 (PyMIC).
        squeeze: s of `p <- (1 - 2 s) p + s` before all else; official code: 0 (WSL4MIS), 5e-4 (PyMIC).
        channels: whose largest entropy is the unit of the relative form; None: those of p.
    """
    p = (1 - 2 * squeeze) * in_float32(p) + squeeze
    if relative:
        return mean_where(relative_entropy(p, activation, eps, channels), mask)
    return mean_where(predictive_entropy(p, activation, eps), mask)


def clean_entropy(
    p: Tensor, noisy: Tensor, mask: Tensor | None = None, activation: str = "softmax", as_released: bool = False
) -> Tensor:
    """Entropy of the prediction where it agrees with the prototypes, in units of the largest, mean over all voxels.

        L = mean_{n,v} [no channel of n,v is noisy] H(p_nv) / ln C;    regions: one by one, mean over them as well

    Args:
        p: probabilities `(B, C, *spatial)`.
        noisy: `disagreement`, `(B, C, *spatial)` bool.
        mask: voxels that count, `(B, 1, *spatial)` bool; None: all. Not with `as_released`.
        activation: "softmax", or "sigmoid" for regions.
        as_released: the released code multiplies an entropy `(B, *spatial)` with a mask `(B, C, *spatial)`, so that the batch
            meets the channels: it runs for B = 1 and B = C only and takes sample c's entropy where sample b's channel c is clean.
    """
    entropy = relative_entropy(p, activation)
    if as_released:
        return (entropy.squeeze(1) * ~noisy).mean()
    clean = ~noisy if activation == "sigmoid" else ~noisy.any(1, keepdim=True)
    return mean_where(entropy * clean, mask)
