"""C3S3's losses, which no trainer has: contrast of features around a boundary, and agreement of two views of the logits.

C3S3, ICME 2025, arXiv:2506.07368; official code: Y-TARL/C3S3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary_contrast(
    first: Tensor, second: Tensor, first_logits: Tensor, second_logits: Tensor, temperature: float, eps: float = 1e-8
) -> Tensor:
    """Cosines c of two networks' features at the same voxel, inside of what both call foreground and outside of what either does.

        L = l(I, 1 - I) + l(1 - U, U),    l(P, N) = mean_v -ln (e^{P c/T} / (sum_v' e^{N c/T} + e^{P c/T} + eps))

    Sums go over the batch. The class masks carry no gradient; class 1 is the foreground.

    Args:
        first, second: features `(B, F, *spatial)`.
        first_logits, second_logits: `(B, C, *spatial)`.
    """
    cosine = (F.normalize(first, dim=1) * F.normalize(second, dim=1)).sum(1)
    masks = first_logits.argmax(1) == 1, second_logits.argmax(1) == 1
    both, either = (masks[0] & masks[1]).float(), (masks[0] | masks[1]).float()

    def part(positive: Tensor, negative: Tensor) -> Tensor:
        own, others = (positive * cosine / temperature).exp(), (negative * cosine / temperature).exp().sum()
        return -(own / (others + own + eps)).log().mean()

    return part(both, 1 - both) + part(1 - either, either)


def cosine_loss(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """`mean (1 - cos)` along an axis; the released code takes the last one, which is spatial."""
    return (1 - F.cosine_similarity(first, second, dim=axis)).mean()


def index_of_best(scores: Sequence[Tensor]) -> int:
    """The network with the lower score, 0 or 1; ties go to 1."""
    return 0 if bool(scores[0] < scores[1]) else 1


def squared_error(p: Tensor, target: Tensor) -> Tensor:
    """`mean (p - target)^2`; the target gets no gradient."""
    return torch.mean((p - target.detach()) ** 2)
