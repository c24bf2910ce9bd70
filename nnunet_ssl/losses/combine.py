"""The total loss of a step from its named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """`L = sum_k weights[k] * terms[k]` over the terms whose weight is not 0.

    A term of weight 0 is left out rather than multiplied, so that NaN or infinity in an inactive term cannot reach
    the sum. If no term is left the sum is a 0 without a gradient.

    Args:
        terms: scalars by name; at least one.
        weights: a weight for each of the terms; weights of terms that this step does not have are allowed.

    Raises:
        ValueError: there is no term, or a term has no weight; the message names it.
    """
    if not terms:
        raise ValueError("there is no loss term to sum")
    unweighted = [name for name in terms if name not in weights]
    if unweighted:
        raise ValueError(f"no weight for the loss terms {unweighted}; there are weights for {sorted(weights)}")
    active = [term * weights[name] for name, term in terms.items() if weights[name] != 0]
    if not active:
        return torch.zeros_like(next(iter(terms.values())))
    total = active[0]
    for term in active[1:]:
        total = total + term
    return total


def over_scales(loss: Callable[[Tensor], Tensor], scales: Sequence[Tensor], scale_weights: Sequence[float]) -> Tensor:
    """`sum_h scale_weights[h] * loss(scales[h])` over the scales whose weight is not 0: a term at all resolutions.

    Args:
        loss: of the logits `(B, C, *spatial)` of one scale.
        scales: highest resolution first.
        scale_weights: one for each scale (`nnUNetTrainerSSL.scale_weights`).
    """
    terms = {str(i): loss(z) for i, (z, weight) in enumerate(zip(scales, scale_weights, strict=True)) if weight != 0}
    return weighted_sum(terms, {str(i): weight for i, weight in enumerate(scale_weights)})
