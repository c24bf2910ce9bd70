"""Which labels of a network count: thresholds of confidence by label.

A label is a class, or, with regions, one side of a region: `C` classes, or `2 R`, outside of the R regions first. Labels and
confidence as `label_and_confidence` of `hard_labels` gives them: `(B, 1, *spatial)`, or `(B, R, *spatial)`.

The thresholds have the form of the class thresholds of Wang et al., "FreeMatch", ICLR 2023, with the mean confidence of voxels of a
label in the place of its mean probability, and a highest threshold that is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = 0.5  # of a threshold


def number_of_labels(channels: int, activation: str = "softmax") -> int:
    """Of logits with so many channels."""
    return channels if activation == "softmax" else 2 * channels


def _of_each(labels: Tensor, count: int, activation: str) -> Tensor:
    """Which voxels have which label, bool `(B, count, *spatial)`."""
    if activation == "sigmoid":
        return torch.cat((~labels, labels), 1)
    return labels == torch.arange(count, device=labels.device).view(1, -1, *[1] * (labels.ndim - 2))


def confidence_sums(
    labels: Tensor, confidence: Tensor, inside: Tensor, count: int, activation: str = "softmax"
) -> Tensor:
    """Of the voxels inside that have a label: sum of their confidence, and their number, `(2, count)`. mu_c is the quotient.

    Args:
        inside: `(B, 1, *spatial)` bool, the voxels of the image.
        count: `number_of_labels`.
    """
    counted = _of_each(labels, count, activation) & inside
    axes = (0, *range(2, labels.ndim))
    if activation == "sigmoid":
        confidence = torch.cat((confidence, confidence), 1)
    return torch.stack((torch.where(counted, confidence, 0).sum(axes), counted.sum(axes)))


def thresholds_of(means: Tensor, highest: float) -> Tensor:
    """tau_c = max(0.5, highest mu_c / max_k mu_k), `(count,)`; no label has a threshold above `highest`."""
    return (highest * means / means.max()).clamp(min=min(LOWEST, highest))


def above_thresholds(labels: Tensor, confidence: Tensor, thresholds: Tensor, activation: str = "softmax") -> Tensor:
    """Where the confidence is at least the threshold of the label, bool of the shape of `labels`."""
    if activation == "softmax":
        return confidence >= thresholds[labels]
    outside, within = (t.view(-1, *[1] * (labels.ndim - 2)) for t in thresholds.chunk(2))
    return confidence >= torch.where(labels, within, outside)
