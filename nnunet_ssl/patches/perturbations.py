"""Perturbations of images under which predictions are asked to stay the same."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_noise(normal: Tensor, std: float, limit: float) -> Tensor:
    """`clamp(std * normal, -limit, limit)`: noise of any shape made from standard-normal values.

    HiLab-git/SSL4MIS has std 0.1 and limit 0.2 on z-scored intensities.
    """
    return torch.clamp(std * normal, -limit, limit)


def add_clipped_noise(
    images: Tensor,
    std: float,
    limit: float | None = None,
    generator: torch.Generator | None = None,
    normal: Tensor | None = None,
) -> Tensor:
    """`images + clamp(std * N(0, 1), -limit, limit)`, drawn independently for every sample, channel and voxel.

    Args:
        images: `(B, C, *spatial)`; not changed.
        std: standard deviation before clipping, in units of the images (z-scores after nnU-Net's normalization).
        limit: largest absolute value of the noise; `2 * std` if None.
        generator: source of the random numbers, on the device of the images; torch's own if None.
        normal: standard-normal values to use instead of drawing, of the images' shape.

    Raises:
        ValueError: `std` or `limit` is negative, or `normal` has another shape than the images.
    """
    limit = 2 * std if limit is None else limit
    if std < 0 or limit < 0:
        raise ValueError(f"std and limit must not be negative, got {std} and {limit}")
    if normal is None:
        normal = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    elif normal.shape != images.shape:
        raise ValueError(f"normal must have the images' shape {tuple(images.shape)}, got {tuple(normal.shape)}")
    return images + clipped_noise(normal, std, limit)
