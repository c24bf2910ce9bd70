"""Losses of the mutual correction framework (MCF): two networks, each corrected where and by what the other one does better.

Wang, Xiao, Bi, Li, Gao, "MCF: Mutual Correction Framework for Semi-Supervised Medical Image Segmentation", CVPR 2023. Official
code: WYC-321/MCF (train_MCF.py). Logits `(B, C, *spatial)`; C classes ("softmax", background included) or regions ("sigmoid").
Targets as nnU-Net's: class indices `(B, 1, *spatial)`, or 0/1 per region `(B, C, *spatial)`. Everything in float32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def disagreement(first: Tensor, second: Tensor, activation: str = "softmax", mask: Tensor | None = None) -> Tensor:
    """Where the hard predictions of two networks differ: bool `(B, 1, *spatial)`, or `(B, R, *spatial)` for regions. No gradient.

    For two classes this is the exclusive or of the foregrounds, as in the official code.

    Args:
        mask: `(B, 1, *spatial)` bool, voxels that may count (those that are annotated); all if None.

    Raises:
        ValueError: the shapes of the logits differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"both predictions must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    differ = hard_labels(first, activation) != hard_labels(second, activation)
    return differ if mask is None else differ & mask


def rectification_loss(logits: Tensor, target: Tensor, differ: Tensor, activation: str = "softmax") -> Tensor:
    """Contrastive difference review: the squared error where the networks disagree.

        R = sum_v D_v mean_c (p_vc - y_vc)^2 / sum_v D_v,    0 where they agree everywhere

    D: `disagreement`; y: one-hot target. For two classes the mean over channels is (p_foreground - y)^2, as in the official code.
    For regions D and the error are per region.
    """
    error = (probabilities(logits, activation) - one_hot(target, logits.shape[1], activation)) ** 2
    if activation == "softmax":
        error = error.mean(1, keepdim=True)
    # denominator of the official code: sum + 1e-16, the same for whole voxels
    return mean_where(error, differ)


def sharpen(logits: Tensor, temperature: float, activation: str = "softmax") -> Tensor:
    """Sharpened probabilities `p^(1/T) / sum_c p_c^(1/T)` (regions: each against its complement), `(B, C, *spatial)`.

    Computed as softmax (sigmoid) of logits / T, which is the same and does not underflow.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return probabilities(in_float32(logits) / temperature, activation)


@torch.no_grad()
def competing_label(
    first: Tensor, second: Tensor, first_is_better: Tensor, temperature: float, activation: str = "softmax"
) -> Tensor:
    """Dynamic competitive pseudo label q: the sharpened prediction of the better network, `(B, C, *spatial)`, without a gradient.

    Args:
        first, second: logits of the two networks on unlabeled patches, `(B, C, *spatial)`.
        first_is_better: bool scalar; the host is not asked for its value.
    """
    return sharpen(torch.where(first_is_better, in_float32(first), in_float32(second)), temperature, activation)


def mutual_loss(
    logits: Tensor, label: Tensor, is_better: Tensor, activation: str = "softmax", mask: Tensor | None = None
) -> Tensor:
    """The worse network follows the better one.

        U = mean_{n,c,v} (p - q)^2, 0 for the better one

    Args:
        logits: of one of the two networks on unlabeled patches, `(B, C, *spatial)`.
        label: q, `competing_label`.
        is_better: bool scalar, whether this network is the better one; the host is not asked for its value.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
    """
    loss = mean_where((probabilities(logits, activation) - label) ** 2, mask)
    return torch.where(is_better, torch.zeros_like(loss), loss)
