"""Image intensities in [0, 1], for terms whose constants were published for such images.

nnU-Net's images are z-scored or CT-normalized, and augmented on top of it. A kernel width of 0.1 means something else there than
for the images of WSL4MIS or of a camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _check(images: Tensor, inside: Tensor | None) -> Tensor:
    expected = (images.shape[0], 1, *images.shape[2:])
    if inside is None:
        return torch.ones(expected, dtype=torch.bool, device=images.device)
    if inside.shape != expected or inside.dtype != torch.bool:
        raise ValueError(f"inside must be bool of shape {expected}, got {inside.dtype} of shape {tuple(inside.shape)}")
    return inside


def _needed(voxels: int, percentiles: Sequence[float]) -> int:
    """How many of the ordered values, from their end on, hold these percentiles of at most so many voxels."""
    return min(voxels, max((int((voxels - 1) * p / 100) + 2 for p in percentiles), default=1))


def inside_percentiles(images: Tensor, inside: Tensor | None, percentiles: Sequence[float]) -> Tensor:
    """Percentiles over the voxels inside, per image and channel, with numpy.percentile's linear interpolation.

    Only the ends of the order are sorted, and nothing is copied to the host. An image without a voxel inside has infinite
    percentiles.

    Args:
        images: `(B, C, *spatial)`, finite inside.
        inside: `(B, 1, *spatial)` bool; None: every voxel.
        percentiles: P numbers in [0, 100].

    Returns:
        `(P, B, C)`, float32 at least.

    Raises:
        ValueError: the mask does not fit, or a percentile is not in [0, 100].
    """
    if not all(0 <= p <= 100 for p in percentiles):
        raise ValueError(f"percentiles must be in [0, 100], got {tuple(percentiles)}")
    inside = _check(images, inside)
    images = images if images.dtype == torch.float64 else images.float()
    flat, inside = images.flatten(2), inside.flatten(2)
    last = (inside.sum(-1) - 1).clamp(min=0)[..., None].expand(*flat.shape[:2], 1)
    lowest, highest = (
        flat.masked_fill(~inside, sign * math.inf).topk(_needed(flat.shape[2], of_end), largest=sign < 0).values
        for sign, of_end in ((1, [p for p in percentiles if p <= 50]), (-1, [100 - p for p in percentiles if p > 50]))
    )
    highest = highest.where(inside.any(-1, keepdim=True), math.inf)

    def ranked(rank: Tensor, p: float) -> Tensor:
        return lowest.gather(-1, rank) if p <= 50 else highest.gather(-1, last - rank)

    found = []
    for p in percentiles:
        position = last * (p / 100)
        below = position.long().clamp(max=last)
        low, high = ranked(below, p), ranked((below + 1).clamp(max=last), p)
        # not lerp: an infinite value plus 0 times an infinite difference is NaN
        found.append(torch.where(high > low, low + (high - low) * (position - below), low)[..., 0])
    return torch.stack(found)


@torch.no_grad()
def rescale_to_unit(
    images: Tensor, inside: Tensor | None = None, percentiles: tuple[float, float] = (0.5, 99.5)
) -> Tensor:
    """Every image and channel on its own, linearly to [0, 1]: `clip((x - low) / (high - low), 0, 1)`.

    low and high are percentiles of the voxels inside, so that padding and single bright voxels do not set the scale. A constant
    channel becomes 0, as does everything outside. No gradient reaches the images.

    Args:
        images: x, `(B, C, *spatial)`, 2D or 3D.
        inside: `(B, 1, *spatial)` bool, False in padding; None: every voxel counts.
        percentiles: of low and high, in [0, 100]; `(0, 100)` for minimum and maximum.

    Returns:
        `(B, C, *spatial)`, float32 (float64 for float64 images).

    Raises:
        ValueError: the mask does not fit, or the percentiles are not two increasing numbers in [0, 100].
    """
    if len(percentiles) != 2 or not percentiles[0] < percentiles[1]:
        raise ValueError(f"percentiles must be two increasing numbers, got {tuple(percentiles)}")
    inside = _check(images, inside)
    low, high = inside_percentiles(images, inside, percentiles)
    per_channel = (*images.shape[:2], *[1] * (images.ndim - 2))
    low, high = low.view(per_channel), high.view(per_channel)
    usable = inside & (high > low)
    scale = torch.where(high > low, high - low, 1)
    return torch.where(usable, (images - low) / scale, 0).clamp(0, 1).to(low.dtype)
