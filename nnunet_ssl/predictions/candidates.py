"""Pseudo labels where only some classes come into question."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32

NONE = -1


@torch.no_grad()
def candidate_pseudo_labels(logits: Tensor, annotated: Tensor, threshold: float) -> Tensor:
    """The most probable candidate of every voxel, where it is sure enough: int64 `(B, 1, *spatial)`, -1 elsewhere.

    k = argmax_{c in S_b} p_c is accepted where p_k / sum_{c in S_b} p_c >= threshold. S_b: background and the classes that case b
    does not annotate; in a fully annotated case that is background alone, always accepted.

    Args:
        logits: of the teacher, `(B, K+1, *spatial)`.
        annotated: bool `(B, K)`.
        threshold: in [0, 1].
    """
    candidates = candidate_sets(annotated)
    hidden = ~candidates.view(*candidates.shape, *[1] * (logits.ndim - 2))
    share, label = torch.softmax(in_float32(logits).masked_fill(hidden, -torch.inf), dim=1).max(1, keepdim=True)
    return torch.where(share >= threshold, label, NONE)


def annotation_matrix(
    annotated: Sequence[Collection[int]], num_classes: int, device: torch.device | None = None
) -> Tensor:
    """Sets of class ids 1..num_classes, one per case, as a bool matrix `(B, num_classes)`, column k-1 for class k.

    Raises:
        ValueError: an id outside 1..num_classes.
    """
    unknown = {k for ids in annotated for k in ids} - set(range(1, num_classes + 1))
    if unknown:
        raise ValueError(f"annotated classes must lie in 1..{num_classes}, got {sorted(unknown)}")
    rows = [[k in ids for k in range(1, num_classes + 1)] for ids in annotated]
    matrix = torch.tensor(rows, dtype=torch.bool)
    return matrix if device is None else matrix.to(device, non_blocking=True)


def candidate_sets(annotated: Tensor) -> Tensor:
    """S, bool `(B, K+1)`: background, and every class that is not annotated."""
    return torch.cat((torch.ones_like(annotated[:, :1]), ~annotated), dim=1)
