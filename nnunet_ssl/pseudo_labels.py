"""Pseudo labels where only some classes come into question."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.consistency import in_float32
from nnunet_ssl.losses.partial_label import candidate_sets

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
