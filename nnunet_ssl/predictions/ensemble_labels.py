"""Labels for what is not annotated, from an average over time of predictions of the whole image.

Lee & Jeong, "Scribble2Label: Scribble-Supervised Cell Segmentation via Self-Generating Pseudo-Labels with Consistency",
MICCAI 2020, arXiv:2006.12890 (official code hvcl/scribble2label); several classes as in HiLab-git/WSL4MIS, `train_s2l.py`.

The ensemble W holds probabilities `(B, C, *spatial)` of C classes (activation "softmax", background included) or regions
("sigmoid"). Everything is computed in float32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32

NONE = -1  # no label, in packed and in augmented labels; also nnU-Net's mark of padding
MAX_REGIONS = 9  # of pack_regions in int16


def update_ensemble(ensemble: Tensor, p: Tensor, alpha: float) -> Tensor:
    """`alpha p + (1 - alpha) W`: the ensemble after a new prediction; a new tensor.

    Args:
        ensemble: W, probabilities of any shape.
        p: the new prediction, of the same shape.
        alpha: share of the new prediction, in [0, 1].

    Raises:
        ValueError: shapes differ, or `alpha` is outside [0, 1].
    """
    if ensemble.shape != p.shape:
        raise ValueError(f"ensemble {tuple(ensemble.shape)} and prediction {tuple(p.shape)} must have one shape")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return torch.lerp(in_float32(ensemble), in_float32(p), alpha)


def confident_labels(
    ensemble: Tensor, unannotated: Tensor, threshold: float, none: int, activation: str = "softmax"
) -> Tensor:
    """The labels that the ensemble is sure of, where there is no annotation.

        softmax: u = c where W_c > threshold (of several, which a threshold below 0.5 allows, the last)
        sigmoid: u_c = 1 where W_c > threshold, 0 where W_c < 1 - threshold

    Args:
        ensemble: W, `(B, C, *spatial)`.
        unannotated: bool `(B, 1, *spatial)`, voxels that may get a label.
        threshold: smallest confidence, excluded.
        none: the value of voxels without a label.

    Returns:
        int64, `(B, 1, *spatial)` classes or `(B, C, *spatial)` regions.

    Raises:
        ValueError: shapes do not fit, or an unknown activation.
    """
    if unannotated.shape != (ensemble.shape[0], 1, *ensemble.shape[2:]) or unannotated.dtype != torch.bool:
        raise ValueError(
            f"unannotated must be bool with one channel for an ensemble of shape {tuple(ensemble.shape)}, got "
            f"{unannotated.dtype} {tuple(unannotated.shape)}"
        )
    sure = ensemble > threshold
    if activation == "softmax":
        numbers = torch.arange(ensemble.shape[1], device=ensemble.device).view(1, -1, *[1] * (ensemble.ndim - 2))
        labels = torch.where(sure, numbers, -1).amax(1, keepdim=True)
        labeled = labels >= 0
    elif activation == "sigmoid":
        labels, labeled = sure.long(), sure | (ensemble < 1 - threshold)
    else:
        raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")
    return torch.where(labeled & unannotated, labels, none)


def pack_regions(labels: Tensor) -> Tensor:
    """Region labels `(B, R, *spatial)` of 1, 0 or NONE in one channel `(B, 1, *spatial)`, which fits int16 for MAX_REGIONS.

    One digit of base 3 each, so that they can be augmented like one label map.
    """
    return ((labels - NONE) * _powers_of_three(labels.shape[1], labels)).sum(1, keepdim=True)


def unpack_regions(packed: Tensor, regions: int) -> Tensor:
    """Undo of `pack_regions`; where `packed` itself is NONE, no region has a label."""
    digits = packed.clamp(min=0).long().div(_powers_of_three(regions, packed), rounding_mode="floor")
    return digits % 3 + NONE


def _powers_of_three(count: int, like: Tensor) -> Tensor:
    return (3 ** torch.arange(count, device=like.device)).view(1, -1, *[1] * (like.ndim - 2))
