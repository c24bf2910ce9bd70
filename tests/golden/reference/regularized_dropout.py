"""Forms of R-Drop's divergence that no trainer has."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.consistency import symmetric_kl


def last_axis_kl(first: Tensor, second: Tensor) -> Tensor:
    """`symmetric_kl` of distributions over the last axis, which for images is a spatial one.

    What SSL4MIS trains: a snippet for tokens, whose last axis has the classes, was taken over for `(B, C, *spatial)`.
    """
    return symmetric_kl(first.movedim(-1, 1), second.movedim(-1, 1))


def summed_kl(first: Tensor, second: Tensor, padded: Tensor | None = None) -> Tensor:
    """Sum of `symmetric_kl` over tokens and classes, without padded tokens: the loss of dropreg/R-Drop.

    Args:
        first, second: logits `(N, K)` of N tokens.
        padded: `(N, 1)` bool, tokens that do not count.
    """
    return symmetric_kl(first, second, mask=None if padded is None else ~padded, reduction="none").sum()
