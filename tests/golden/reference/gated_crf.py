"""Sums and windows of the Gated CRF's kernel, as the official codes have them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.gated_crf import PUBLISHED_KERNELS, GaussianKernel, _per_axis, _position_exponent, _sums
from nnunet_ssl.predictions.probabilities import in_float32


def kernel_sum(
    images: Tensor,
    kernels: Sequence[GaussianKernel] = PUBLISHED_KERNELS,
    radius: int | Sequence[int] = 5,
    spacing: Sequence[float] | None = None,
    count_outside: bool = False,
) -> Tensor:
    """`sum_i sum_{j in window(i)} K_ij` over the batch, a scalar: D times the loss if no two voxels agree at all.

    Arguments and errors are those of `gated_crf_loss`.
    """
    radius, spacing = _per_axis(images, radius, spacing)
    return _sums(None, in_float32(images), kernels, radius, spacing, None, None, count_outside)[0]


def kernel_window(
    images: Tensor,
    voxel: Sequence[int] | None = None,
    kernels: Sequence[GaussianKernel] = PUBLISHED_KERNELS,
    radius: int | Sequence[int] = 5,
    spacing: Sequence[float] | None = None,
    count_outside: bool = False,
) -> Tensor:
    """K_ij of one voxel i and all j of its window, to look at: which neighbors the kernel takes for the same tissue.

    Args:
        voxel: i, one index per axis; None: the middle, `size // 2` along each axis.
        The other arguments are those of `gated_crf_loss`.

    Returns:
        `(B, *window)` with `2 radius + 1` values per axis. 0 at i itself and, unless `count_outside`, beyond the border.
    """
    radius, spacing = _per_axis(images, radius, spacing)
    images, size = in_float32(images), images.shape[2:]
    voxel = tuple(n // 2 for n in size) if voxel is None else tuple(voxel)
    window = images.new_zeros(images.shape[0], *(2 * r + 1 for r in radius))
    center = images[(..., *voxel)]
    # beyond the border the position is that of the first voxel, 0, along all axes that the window extends along
    origin = tuple(-v if r > 0 else 0 for v, r in zip(voxel, radius))
    for shift in itertools.product(*(range(-r, r + 1) for r in radius)):
        other = tuple(v + s for v, s in zip(voxel, shift))
        inside = all(0 <= o < n for o, n in zip(other, size))
        if not any(shift) or not (inside or count_outside):
            continue
        squared = ((images[(..., *other)] if inside else 0) - center).square().sum(1)
        for kernel in kernels:
            exponent = _position_exponent(shift if inside else origin, spacing, kernel)
            by_intensity = 0 if kernel.intensity is None else -0.5 / kernel.intensity**2
            value = kernel.weight * torch.exp(exponent + by_intensity * squared)
            window[(slice(None), *(s + r for s, r in zip(shift, radius)))] += value
    return window
