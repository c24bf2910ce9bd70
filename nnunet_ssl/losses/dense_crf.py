"""Dense CRF energy of probabilities: all pairs of voxels, weighted by nearness and likeness.

Tang, Perazzi, Djelouah, Ben Ayed, Schroers, Boykov, "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018,
arXiv:1803.09569. Official code: meng-tang/rloss (PyTorch).

    W_ij = exp(-|x_i - x_j|^2 / (2 sigma^2) - |I_i - I_j|^2 / (2 tau^2)),    i = j included
    energy = -1/B sum_c S_c^T W S_c                                          (official code, to be weighted by 2e-9 or so)
    loss   = sum_ij W_ij (1 - sum_c S_ic S_jc) / sum_ij W_ij                 in [0, 1], whatever the size of the image

S is the probability inside a region of interest (ROI) and 0 outside; the sums of the loss go over pairs inside of one image. The
two forms differ by a constant and by a factor of each image. `method` is "exact", all pairs one by one (memory: blocks of rows;
time: the square of the number of voxels, so on a coarse grid), or "lattice", the official approximation with a scale of its own
(see `nnunet_ssl.losses.permutohedral`), to which the official weight belongs. Everything is in float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.losses.permutohedral import permutohedral_filter
from nnunet_ssl.losses.potts import SMALLEST_EXPONENT, potts_channels, quadratic_energy
from nnunet_ssl.predictions.probabilities import in_float32

BLOCK_ELEMENTS = (
    2**20
)  # of W that exist at a time: what a CPU's cache holds; GPUs get 16 times as many, 64 MiB in float32

_METHODS = ("exact", "lattice")


def _positions(size: Sequence[int], spacing: Sequence[float] | None, sigma: float, like: Tensor) -> Tensor:
    """`(n, axes)`, in units of sigma."""
    spacing = (1.0,) * len(size) if spacing is None else tuple(spacing)
    if len(spacing) != len(size):
        raise ValueError(f"spacing needs one number per axis of {tuple(size)}, got {spacing}")
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) * s / sigma for n, s in zip(size, spacing)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def _exact_filter(values: Tensor, intensities: Tensor, positions: Tensor) -> Tensor:
    """`W v` of `(B, K, n)` by blocks of rows, each pair of different blocks once."""
    batch, _, n = values.shape
    filtered = torch.zeros_like(values)
    elements = BLOCK_ELEMENTS if values.device.type == "cpu" else 16 * BLOCK_ELEMENTS
    rows = max(1, elements // (batch * n))
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


@torch.no_grad()
def bilateral_filter(
    values: Tensor,
    images: Tensor,
    sigma_position: float,
    sigma_intensity: float,
    spacing: Sequence[float] | None = None,
    method: str = "exact",
    dtype: torch.dtype | None = None,
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
        if method == "exact":
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
) -> Tensor:
    """Mean over images of `sum_ij W_ij (1 - sum_c p_ic p_jc) / sum_ij W_ij` over pairs inside the ROI: a scalar in [0, 1].

    0: voxels that are near and alike have one class each and the same. An image without a voxel in the ROI adds 0. The size of
    the image and the scale of W make no difference.

    Arguments and errors are those of `dense_crf_energy`.
    """
    probabilities = in_float32(probabilities)
    inside = _inside(probabilities, roi)
    values = potts_channels(probabilities, activation) * inside
    with_roi = torch.cat((values.detach(), inside), 1)
    filtered = bilateral_filter(with_roi, images, sigma_position, sigma_intensity, spacing, method)
    all_pairs = (inside * filtered[:, -1:]).flatten(1).sum(1)
    present = (all_pairs > 0).to(values.dtype)
    scale = present / all_pairs.clamp(min=torch.finfo(values.dtype).tiny)
    scaled = filtered[:, :-1] * scale.view(-1, *[1] * (values.ndim - 1))
    return (present.sum() + quadratic_energy(values, scaled)) / len(values)
