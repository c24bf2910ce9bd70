"""Dense CRF energy of probabilities: all pairs of voxels, weighted by nearness and likeness.

Tang, Perazzi, Djelouah, Ben Ayed, Schroers, Boykov, "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018,
arXiv:1803.09569. Official code: meng-tang/rloss (PyTorch).

    W_ij = exp(-|x_i - x_j|^2 / (2 sigma^2) - |I_i - I_j|^2 / (2 tau^2)),    i = j included
    energy = -1/B sum_c S_c^T W S_c                                          (official code, to be weighted by 2e-9 or so)
    loss   = sum_ij W_ij (1 - sum_c S_ic S_jc) / sum_ij W_ij                 in [0, 1], whatever the size of the image

S is the probability inside a region of interest (ROI) and 0 outside; the sums of the loss go over pairs inside of one image. The
two forms differ by a constant and by a factor of each image. `method` is "exact", or "lattice", the official approximation with a
scale of its own (see `nnunet_ssl.losses.permutohedral`), to which the official weight belongs. Everything is in float32 at least.

The exact sum goes over all pairs one by one (memory: blocks of rows; time: the square of the number of voxels, so on a coarse
grid), or, for images of one channel whose range is known, over levels of intensity:

    exp(-(a - b)^2 / 2) = sqrt(2 / pi) integral exp(-(a - s)^2) exp(-(b - s)^2) ds,    a = I / tau

The integral becomes a sum over levels s, the trapezoidal rule, which for a Gaussian converges so fast that the error is below
rounding. For each level W is then a product of matrices along the axes: the time grows with the number of voxels times the
extent of an axis. Two images of 24^3 voxels took 20 ms instead of 700 (four channels of values, sigma of the trainer, one CPU
thread).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.permutohedral import permutohedral_filter
from nnunet_ssl.losses.potts import SMALLEST_EXPONENT, potts_channels, quadratic_energy
from nnunet_ssl.predictions.probabilities import in_float32

BLOCK_ELEMENTS = (
    2**20
)  # of W that exist at a time: what a CPU's cache holds; GPUs get 16 times as many, 64 MiB in float32

LEVELS_SHARE = 4  # of a block: levels are taken in parts of a quarter, since three tensors of that size exist at a time

_METHODS = ("exact", "lattice")
_COST_OF_LEVEL = 3  # time for a level of a voxel over that for a pair of voxels, measured on a CPU


def _positions(size: Sequence[int], spacing: Sequence[float] | None, sigma: float, like: Tensor) -> Tensor:
    """`(n, axes)`, in units of sigma."""
    spacing = (1.0,) * len(size) if spacing is None else tuple(spacing)
    if len(spacing) != len(size):
        raise ValueError(f"spacing needs one number per axis of {tuple(size)}, got {spacing}")
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) * s / sigma for n, s in zip(size, spacing)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def _block_elements(like: Tensor) -> int:
    return BLOCK_ELEMENTS if like.device.type == "cpu" else 16 * BLOCK_ELEMENTS


def _exact_filter(values: Tensor, intensities: Tensor, positions: Tensor) -> Tensor:
    """`W v` of `(B, K, n)` by blocks of rows, each pair of different blocks once."""
    batch, _, n = values.shape
    filtered = torch.zeros_like(values)
    rows = max(1, _block_elements(values) // (batch * n))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        # minus half the squared distance, built up in place: one axis or channel after the other
        exponent = values.new_zeros(1, stop - start, n - start)
        for axis in positions.unbind(1):
            difference = axis[start:stop, None] - axis[None, start:]
            exponent.addcmul_(difference, difference, value=-0.5)
        exponent = exponent.expand(batch, -1, -1)
        for channel in intensities.unbind(1):
            difference = channel[:, start:stop, None] - channel[:, None, start:]
            exponent = torch.addcmul(exponent, difference, difference, value=-0.5, out=difference)
        affinity = exponent.clamp_(min=SMALLEST_EXPONENT).exp_()
        filtered[..., start:stop] += values[..., start:] @ affinity.mT
        filtered[..., stop:] += values[..., start:stop] @ affinity[..., stop - start :]
    return filtered


def _digits(like: Tensor) -> float:
    """exp(- of this) is the rounding of 1."""
    return -math.log(torch.finfo(like.dtype).eps / 2)


def _levels(bounds: tuple[float, float], like: Tensor) -> tuple[Tensor, float]:
    """Levels s of intensities a between `bounds`, `(levels,)`, and the factor of the sum over them; see the module.

    At the distance h the trapezoidal rule is wrong by `2 exp(-(2 pi / h)^2 / 8)`; the levels that are left out, farther than m from
    the range, make less than `exp(-2 m^2)`.
    """
    digits = _digits(like)
    step, margin = 2 * math.pi / math.sqrt(8 * (digits + math.log(2))), math.sqrt(digits / 2)
    number = math.ceil((bounds[1] - bounds[0] + 2 * margin) / step) + 1
    levels = bounds[0] - margin + step * torch.arange(number, dtype=like.dtype, device=like.device)
    return levels, step * math.sqrt(2 / math.pi)


def _levels_filter(
    values: Tensor, intensities: Tensor, levels: Tensor, factor: float, edges: Sequence[float]
) -> Tensor:
    """`W v` of `(B, K, *spatial)` by levels of intensity.

    Args:
        intensities: a, `(B, 1, *spatial)`.
        edges: of a voxel per axis, in units of sigma.
    """
    levels = levels.view(1, -1, *[1] * (values.ndim - 2))
    along = []
    for size, edge in zip(values.shape[2:], edges):
        positions = edge * torch.arange(size, dtype=values.dtype, device=values.device)
        squared = (positions[:, None] - positions).square()
        along.append((squared * -0.5).clamp_(min=SMALLEST_EXPONENT).exp_())
    filtered = torch.zeros_like(values)
    at_a_time = max(1, _block_elements(values) // (LEVELS_SHARE * values[0].numel()))
    for value, intensity, result in zip(values.split(1), intensities.split(1), filtered.split(1)):
        for some in levels.split(at_a_time, 1):
            near = (intensity - some).square_().neg_().clamp_(min=-2 * _digits(values)).exp_()[:, :, None]
            held = near * value[:, None]  # (1, levels, K, *spatial)
            for axis, matrix in enumerate(along, start=3):
                last = axis == held.ndim - 1
                held = held @ matrix if last else (matrix @ held.flatten(axis + 1)).view(held.shape)
            result += held.mul_(near).sum(1)
    return filtered.mul_(factor)


@torch.no_grad()
def bilateral_filter(
    values: Tensor,
    images: Tensor,
    sigma_position: float,
    sigma_intensity: float,
    spacing: Sequence[float] | None = None,
    method: str = "exact",
    dtype: torch.dtype | None = None,
    intensity_range: tuple[float, float] | None = None,
) -> Tensor:
    """`(W v)_i = sum_j W_ij v_j` in each image and channel. No gradient.

    Args:
        values: v, `(B, K, *spatial)`, 2D or 3D.
        images: I, `(B, channels, *spatial)` on the same grid.
        sigma_position: sigma, in voxels, or in the unit of the spacing.
        sigma_intensity: tau, of the images as given.
        spacing: edge of a voxel per axis; None: 1.
        method: "exact" or "lattice"; the latter approximates W up to its scale.
        dtype: type of W and of the sums; None: float32, or float64 for float64 values.
        intensity_range: between which numbers the images lie, if that is known beforehand. It makes "exact" faster for images of
            one channel on large grids, see the module; intensities outside would be wrong.

    Returns:
        `(B, K, *spatial)` in this type.

    Raises:
        ValueError: shapes do not fit, or an unknown method.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {_METHODS}, got {method!r}")
    if values.shape[0] != images.shape[0] or values.shape[2:] != images.shape[2:]:
        raise ValueError(
            f"values and images must have the same batch and grid, got {tuple(values.shape)} and {tuple(images.shape)}"
        )
    flat = in_float32(values).flatten(2)
    flat = flat if dtype is None else flat.to(dtype)
    positions = _positions(values.shape[2:], spacing, sigma_position, flat)
    intensities = (in_float32(images).flatten(2) / sigma_intensity).to(flat.dtype)
    with torch.autocast(flat.device.type, enabled=False):  # it would multiply matrices in half precision
        if method == "exact" and images.shape[1] == 1 and intensity_range is not None:
            levels, factor = _levels(tuple(bound / sigma_intensity for bound in intensity_range), flat)
        else:
            levels, factor = None, 1.0
        if levels is not None and _COST_OF_LEVEL * flat.shape[1] * len(levels) < flat.shape[2]:
            edges = [edge / sigma_position for edge in spacing or (1.0,) * (values.ndim - 2)]
            grid = values.shape[2:]
            filtered = _levels_filter(flat.unflatten(2, grid), intensities.unflatten(2, grid), levels, factor, edges)
        elif method == "exact":
            filtered = _exact_filter(flat, intensities, positions)
        else:
            # features as in the official code: last axis first, then the channels
            features = [torch.cat((positions.flip(1), channels.T), 1) for channels in intensities]
            filtered = torch.stack([permutohedral_filter(v, f) for v, f in zip(flat, features)])
    return filtered.view(values.shape)


def _inside(probabilities: Tensor, roi: Tensor | None) -> Tensor:
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if roi is None:
        return probabilities.new_ones(expected)
    if roi.shape != expected or roi.dtype != torch.bool:
        raise ValueError(f"roi must be bool of shape {expected}, got {roi.dtype} of shape {tuple(roi.shape)}")
    return roi.to(probabilities.dtype)


def dense_crf_loss(
    probabilities: Tensor,
    images: Tensor,
    sigma_position: float = 100.0,
    sigma_intensity: float = 15.0,
    spacing: Sequence[float] | None = None,
    roi: Tensor | None = None,
    activation: str = "softmax",
    method: str = "exact",
    intensity_range: tuple[float, float] | None = None,
) -> Tensor:
    """Mean over images of `sum_ij W_ij (1 - sum_c p_ic p_jc) / sum_ij W_ij` over pairs inside the ROI: a scalar in [0, 1].

    0: voxels that are near and alike have one class each and the same. An image without a voxel in the ROI adds 0. The size of
    the image and the scale of W make no difference.

    Args:
        probabilities: p, `(B, C, *spatial)`, 2D or 3D. Regions (activation "sigmoid"): each a problem of two classes (p, 1 - p),
            mean over regions.
        roi: `(B, 1, *spatial)` bool, False in padding; None: all.

    The other arguments, and the errors, are those of `bilateral_filter`.
    """
    probabilities = in_float32(probabilities)
    inside = _inside(probabilities, roi)
    values = potts_channels(probabilities, activation) * inside
    with_roi = torch.cat((values.detach(), inside), 1)
    filtered = bilateral_filter(
        with_roi, images, sigma_position, sigma_intensity, spacing, method, intensity_range=intensity_range
    )
    all_pairs = (inside * filtered[:, -1:]).flatten(1).sum(1)
    present = (all_pairs > 0).to(values.dtype)
    scale = present / all_pairs.clamp(min=torch.finfo(values.dtype).tiny)
    scaled = filtered[:, :-1] * scale.view(-1, *[1] * (values.ndim - 1))
    return (present.sum() + quadratic_energy(values, scaled)) / len(values)
