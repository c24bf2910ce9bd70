"""Gated CRF loss: voxels that are near each other and look alike should get the same label.

Obukhov, Georgoulis, Dai, Van Gool, "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation", arXiv:1906.04651. Official
code: toshas/GatedCRFLoss; in 2D as HiLab-git/WSL4MIS and PyMIC use it, in 3D as HiLab-git/PA-Seg.

    L = 1/D sum_i sum_{j in window(i)} K_ij (1 - sum_c p_ic p_jc)
    K_ij = sum_k w_k exp(-|x_i - x_j|^2 / (2 sigma_k^2) - |I_i - I_j|^2 / (2 tau_k^2)),    j != i
    D = number of voxels that count

x positions, I intensities. A window has `radius` voxels on either side of i along each axis; radius 0 along an axis means that
pairs lie in one slice (2D windows in a volume). Masks gate: K_ij is 0 unless i is a destination and j a source.

The official code unfolds the image, `(2 radius + 1)^2` copies of every probability map. Here the loop goes over the shifts between
i and j, and over half of them: a shift and its opposite have one kernel. A step then needs memory for a few images, whatever
the window. Images are laid out in rows for this (`_flat`). Everything is in float32 at least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.potts import SMALLEST_EXPONENT, potts_channels, quadratic_energy
from nnunet_ssl.predictions.probabilities import in_float32


@dataclass(frozen=True)
class GaussianKernel:
    """One summand of K.

    Attributes:
        weight: w.
        position: sigma, in voxels, or in the unit of the spacing that goes with it.
        intensity: tau, of the images as given (published values are for images in [0, 1]); None: by position only.
    """

    weight: float = 1.0
    position: float = 6.0
    intensity: float | None = 0.1


PUBLISHED_KERNELS = (GaussianKernel(),)


def _per_axis(images: Tensor, radius: int | Sequence[int], spacing: Sequence[float] | None) -> tuple[tuple, tuple]:
    axes = images.ndim - 2
    radius = (radius,) * axes if isinstance(radius, int) else tuple(radius)
    spacing = (1.0,) * axes if spacing is None else tuple(spacing)
    if len(radius) != axes or len(spacing) != axes:
        raise ValueError(
            f"radius and spacing need one number per axis of {tuple(images.shape)}, got {radius} and {spacing}"
        )
    if min(radius) < 0 or max(radius) == 0:
        raise ValueError(f"the radius must not be negative, and not 0 along all axes, got {radius}")
    return radius, spacing


def _half_window(radius: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One of each shift and its opposite."""
    zero = (0,) * len(radius)
    return (s for s in itertools.product(*(range(-r, r + 1) for r in radius)) if s > zero)


def _flat(tensor: Tensor, radius: tuple[int, ...]) -> Tensor:
    """`(B, C, *spatial)` as rows `(C, N)` with zeros behind every axis, as many as the radius: neighbors of a voxel have a constant
    distance in a row, and beyond the border of the image there are zeros. Rows are several times faster than views of images.
    """
    return F.pad(tensor.movedim(1, 0), [n for r in reversed(radius) for n in (0, r)]).flatten(1)


def _unflat(rows: Tensor, like: Tensor, radius: tuple[int, ...]) -> Tensor:
    """Rows `(C, N)` of `_flat` back to the shape of `like`, `(B, C, *spatial)`."""
    batch, _, *shape = like.shape
    padded = rows.unflatten(1, (batch, *(n + r for n, r in zip(shape, radius))))
    return padded[(..., *(slice(n) for n in shape))].movedim(0, 1).contiguous()


def _distance(shift: tuple[int, ...], shape: Sequence[int], radius: tuple[int, ...]) -> int:
    """From a voxel to its neighbor in a row of `_flat`; positive for the shifts of `_half_window`."""
    distance = 0
    for s, n, r in zip(shift, shape, radius):
        distance = distance * (n + r) + s
    return distance


def _position_exponent(shift: Sequence[float], spacing: tuple[float, ...], kernel: GaussianKernel) -> float:
    return -0.5 * sum((s * length / kernel.position) ** 2 for s, length in zip(shift, spacing))


def _kernel(
    shift: tuple[int, ...],
    differences: Tensor,
    kernels: Sequence[GaussianKernel],
    spacing: tuple[float, ...],
) -> Tensor:
    """K of pairs with this shift, `(pairs,)`, from the differences of intensities, rows `(channels, pairs)`, which are lost."""
    squared = differences.square_()
    squared = squared[0] if len(squared) == 1 else squared.sum(0)
    total = None
    for kernel in kernels:
        position = _position_exponent(shift, spacing, kernel)
        if kernel.intensity is None:
            value = torch.full_like(squared, kernel.weight * math.exp(position))
        else:
            # the weight as a summand of the exponent would save a pass, but weights may be 0 or negative
            factor = -0.5 / kernel.intensity**2
            value = squared.mul_(factor) if kernel is kernels[-1] else squared * factor
            value = value.add_(position).clamp_(min=SMALLEST_EXPONENT).exp_()
            value = value if kernel.weight == 1 else value.mul_(kernel.weight)
        total = value if total is None else total.add_(value)
    return total


def _outside_sum(
    images: Tensor,
    kernels: Sequence[GaussianKernel],
    radius: tuple[int, ...],
    spacing: tuple[float, ...],
    destination: Tensor | None,
) -> Tensor:
    """Sum of the K of neighbors beyond the border if position and intensity are 0 there, as in zero-padded features."""
    device, dtype, axes = images.device, images.dtype, images.ndim - 2
    neighbors = torch.ones((), dtype=dtype, device=device)
    squared_positions = torch.zeros((), dtype=dtype, device=device)
    for axis, (r, length) in enumerate(zip(radius, spacing)):
        n = images.shape[axis + 2]
        index = torch.arange(n, device=device)
        along = tuple(-1 if a == axis else 1 for a in range(axes))
        neighbors = neighbors * (index.clamp(max=r) + (n - 1 - index).clamp(max=r) + 1).to(dtype).view(along)
        if r > 0:  # the position in a slice knows nothing of the position of the slice
            squared_positions = squared_positions + (index.to(dtype) * length).square().view(along)
    beyond = math.prod(2 * r + 1 for r in radius) - neighbors
    if destination is not None:
        beyond = beyond * destination
    total = torch.zeros((), dtype=dtype, device=device)
    for kernel in kernels:
        exponent = -0.5 * squared_positions / kernel.position**2
        if kernel.intensity is not None:
            exponent = exponent - 0.5 * (images / kernel.intensity).square().sum(1, keepdim=True)
        count = images.shape[0] if exponent.ndim == axes and destination is None else 1
        total = total + kernel.weight * count * (exponent.exp() * beyond).sum()
    return total


@torch.no_grad()
def _sums(
    values: Tensor | None,
    images: Tensor,
    kernels: Sequence[GaussianKernel],
    radius: tuple[int, ...],
    spacing: tuple[float, ...],
    source: Tensor | None,
    destination: Tensor | None,
    count_outside: bool,
) -> tuple[Tensor, Tensor | None]:
    """`sum_ij K_ij`, and `(K + K^T)/2 values`, of the shape of the values."""
    everywhere = torch.ones_like(images[:, :1])
    i = everywhere if destination is None else destination.to(images.dtype)
    j = everywhere if source is None else source.to(images.dtype)
    # (K_ij + K_ji) / 2 = G_ij (i_i j_j + j_i i_j) / 2, G without masks: one sum over neighbors per mask
    masks = [(i, j)] if source is destination else [(i, j), (j, i)]
    own, others = (torch.cat([_flat(mask, radius) for mask in of_all]) for of_all in zip(*masks))  # (masks, N)
    channels = others[:, None]
    if values is not None:
        channels = torch.cat((others[:, None] * _flat(values, radius), channels), 1)
    rows = _flat(images, radius)
    sums = torch.zeros_like(
        channels
    )  # (masks, channels + 1, N): over neighbors; the last channel in one direction only
    buffer = torch.empty_like(rows)  # new memory for every shift would take longer than the arithmetic
    for shift in _half_window(radius):
        distance = _distance(shift, images.shape[2:], radius)
        here, there = slice(None, max(rows.shape[1] - distance, 0)), slice(distance, None)
        differences = torch.sub(rows[:, there], rows[:, here], out=buffer[:, here])
        pair = _kernel(shift, differences, kernels, spacing)
        sums[..., here].addcmul_(channels[..., there], pair)
        sums[:, :-1, there].addcmul_(channels[:, :-1, here], pair)
    total = (own * sums[:, -1]).sum() * (2 / len(masks))
    if count_outside and source is None:
        total += _outside_sum(images, kernels, radius, spacing, None if destination is None else i)
    if values is None:
        return total, None
    return total, _unflat((own[:, None] * sums[:, :-1]).mean(0), values, radius)


def _check(images: Tensor, probabilities: Tensor | None, **masks: Tensor | None) -> None:
    expected = (images.shape[0], 1, *images.shape[2:])
    if probabilities is not None and (
        probabilities.shape[0] != images.shape[0] or probabilities.shape[2:] != images.shape[2:]
    ):
        raise ValueError(
            "probabilities and images must have the same batch and grid, "
            f"got {tuple(probabilities.shape)} and {tuple(images.shape)}"
        )
    for name, mask in masks.items():
        if mask is not None and (mask.shape != expected or mask.dtype != torch.bool):
            raise ValueError(f"{name} must be bool of shape {expected}, got {mask.dtype} of shape {tuple(mask.shape)}")


def gated_crf_loss(
    probabilities: Tensor,
    images: Tensor,
    kernels: Sequence[GaussianKernel] = PUBLISHED_KERNELS,
    radius: int | Sequence[int] = 5,
    spacing: Sequence[float] | None = None,
    activation: str = "softmax",
    source: Tensor | None = None,
    destination: Tensor | None = None,
    count_outside: bool = False,
) -> Tensor:
    """The loss of the module's first lines, a scalar of at least 0; 0 if neighbors that look alike agree completely.

    The denominator D is the number of destinations; without that mask the number of sources; without masks that of all voxels.

    Args:
        probabilities: p, `(B, C, *spatial)`, 2D or 3D. Regions (activation "sigmoid"): each a problem of two classes (p, 1 - p),
            mean over regions.
        images: I, `(B, channels, *spatial)` on the same grid. They get no gradient.
        kernels: the summands of K.
        radius: of the window in voxels, one for all axes or one per axis. `(0, 5, 5)`: 2D windows in the slices of a volume.
        spacing: edge of a voxel per axis, in the unit of the kernels' sigma; None: 1, sigma is in voxels.
        activation: "softmax", or "sigmoid" for regions.
        source: `(B, 1, *spatial)` bool, voxels that may act as the neighbor j; None: all.
        destination: `(B, 1, *spatial)` bool, voxels whose neighbors are asked for, i; None: all.
        count_outside: values as in the official code. There, neighbors beyond the border have position and intensity 0 instead of
            not existing, unless there is a source mask: a constant is added, which has no influence on the gradient.

    Raises:
        ValueError: shapes do not fit, or masks are not bool.
    """
    _check(images, probabilities, source=source, destination=destination)
    radius, spacing = _per_axis(images, radius, spacing)
    values, images = potts_channels(in_float32(probabilities), activation), in_float32(images)
    total, filtered = _sums(values.detach(), images, kernels, radius, spacing, source, destination, count_outside)
    counted = source if destination is None else destination
    voxels = images[:, 0].numel() if counted is None else counted.sum().clamp(min=1)
    return (total + quadratic_energy(values, filtered)) / voxels


def three_view_gated_crf_loss(probabilities: Tensor, images: Tensor, radius: int = 5, **options) -> Tensor:
    """Mean of `gated_crf_loss` with 2D windows in the slices across each of the three axes of a volume.

    Zhai et al., "PA-Seg", IEEE Transactions on Medical Imaging 2023 (multi-view conditional random field). A 3D window of the
    same radius has four times as many pairs (radius 5).

    Args:
        probabilities, images: `(B, channels, X, Y, Z)`.
        radius: of the 2D windows, in voxels.
        options: the other arguments of `gated_crf_loss`.

    Raises:
        ValueError: not a volume, or as `gated_crf_loss`.
    """
    if images.ndim != 5:
        raise ValueError(f"three views need volumes (B, channels, X, Y, Z), got {tuple(images.shape)}")
    views = [[0 if a == axis else radius for a in range(3)] for axis in range(3)]
    return torch.stack([gated_crf_loss(probabilities, images, radius=view, **options) for view in views]).mean()
