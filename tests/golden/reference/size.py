"""Bounds of sizes around the true ones."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.size import scaled_bounds


def precise_bounds(sizes: Tensor, margin: float = 0.1) -> Tensor:
    """True sizes -/+ a margin, `(..., 2)`: what sizes can give at most."""
    return scaled_bounds(sizes, 1 - margin, 1 + margin)
