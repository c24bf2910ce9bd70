"""Mumford-Shah: piecewise constant intensities with short boundaries.

Kim & Ye, "Mumford-Shah Loss Functional for Image Segmentation with Deep Learning", IEEE TIP 2020, arXiv:1904.02872. Official code:
jongcye/CNN_MumfordShah_Loss; HiLab-git/PyMIC has the mean instead of the sum. Shapes as in
`nnunet_ssl.losses.intensity_variance`.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.losses.intensity_variance import intensity_scatter, memberships
from nnunet_ssl.predictions.probabilities import in_float32


def level_set(p: Tensor, images: Tensor) -> Tensor:
    """`sum_{n,c,h,v} p_ncv (I_nhv - mu_nch)^2`, the data term (their eq. 8); see `intensity_scatter`."""
    return intensity_scatter(p, images)[0].sum()


def total_variation(p: Tensor, mask: Tensor | None = None, order: int = 1) -> Tensor:
    """`sum |p(v + 1) - p(v)|^order` over items, channels, voxels and axes: forward differences (their eq. 9 has order 1).

    Args:
        p: `(B, C, *spatial)`.
        mask: `(B, 1, *spatial)` bool; a difference counts where both of its voxels do.
        order: 1 or 2.
    """
    p = in_float32(p)
    total = p.new_zeros(())
    for axis in range(2, p.ndim):
        length = p.shape[axis] - 1
        difference = p.narrow(axis, 1, length) - p.narrow(axis, 0, length)
        values = difference.abs() if order == 1 else difference**2
        if mask is not None:
            values = values * (mask.narrow(axis, 1, length) & mask.narrow(axis, 0, length))
        total = total + values.sum()
    return total


def mumford_shah(
    p: Tensor, images: Tensor, activation: str = "softmax", mask: Tensor | None = None, tv_weight: float = 1.0
) -> Tensor:
    """`(level_set + tv_weight * total_variation) / (number of counted elements of p)`, the form of PyMIC.

    Args:
        p: probabilities `(B, C, *spatial)`.
        images: `(B, channels, *spatial)`, in [0, 1] for the published weights.
        activation: what p came from; of regions the outside of each counts as an object too.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        tv_weight: 1 in PyMIC, 1e-3 in the paper's code.
    """
    p = memberships(in_float32(p), activation)
    if mask is None:
        return (level_set(p, images) + tv_weight * total_variation(p)) / p.numel()
    elements = (mask.sum() * p.shape[1]).clamp(min=1)
    return (level_set(p * mask, images) + tv_weight * total_variation(p, mask)) / elements
