"""The dense CRF energy of a whole image, and the coarse grid of the official code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.dense_crf import _inside, bilateral_filter
from nnunet_ssl.losses.potts import potts_channels, quadratic_energy
from nnunet_ssl.predictions.probabilities import in_float32


def dense_crf_energy(
    probabilities: Tensor,
    images: Tensor,
    sigma_position: float = 100.0,
    sigma_intensity: float = 15.0,
    spacing: Sequence[float] | None = None,
    roi: Tensor | None = None,
    activation: str = "softmax",
    method: str = "exact",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The official energy `-1/B sum_c S_c^T W S_c`, a negative scalar that grows with the square of the number of voxels.

    Its gradient is the official one, `-2 W S / B` inside the ROI.

    Args:
        probabilities: `(B, C, *spatial)`, 2D or 3D. Regions (activation "sigmoid"): each a problem of two classes (p, 1 - p), mean
            over regions.
        images: I, `(B, channels, *spatial)` on the same grid. They get no gradient.
        sigma_position: sigma, in voxels, or in the unit of the spacing. Official: 100 of the full image.
        sigma_intensity: tau, of the images as given. Official: 15, for three channels of images in [0, 255].
        spacing: edge of a voxel per axis; None: 1.
        roi: `(B, 1, *spatial)` bool, False in padding; None: all.
        activation: "softmax", or "sigmoid" for regions.
        method: "exact" or "lattice".
        dtype: type of W and of the sums; None: float32, or float64 for float64 probabilities.

    Raises:
        ValueError: shapes do not fit, or an unknown method or activation.
    """
    probabilities = in_float32(probabilities)
    values = potts_channels(probabilities, activation) * _inside(probabilities, roi)
    filtered = bilateral_filter(values, images, sigma_position, sigma_intensity, spacing, method, dtype)
    return quadratic_energy(values, filtered) / probabilities.shape[0]


def rloss_downscale(probabilities: Tensor, images: Tensor, roi: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The official script's smaller grid: probabilities bilinear, images and ROI by nearest neighbor.

    Args:
        probabilities, images: `(B, channels, X, Y)`.
        roi: `(B, 1, X, Y)` bool.
        scale: of every axis, official 0.5; sigma in voxels has to be multiplied by it too.

    Returns:
        the three of them on the smaller grid.
    """
    small = F.interpolate(probabilities, scale_factor=scale, mode="bilinear", align_corners=False)
    images = F.interpolate(images, scale_factor=scale, mode="nearest")
    return small, images, F.interpolate(roi.float(), scale_factor=scale, mode="nearest") > 0
