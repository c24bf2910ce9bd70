"""How much the intensities inside each predicted object scatter around their mean.

Probabilities p are `(B, C, *spatial)` and images I `(B, channels, *spatial)`, in 2D or 3D. Means and variances are those of
an item; `nnunet_ssl.patches.slices.fold_slices` makes slices the items. Sums are in float32 at least.

Zhai et al., "PA-Seg", IEEE TMI 2023, arXiv:2208.05669 (VarianceLoss); Luo et al., "WORD", Medical Image Analysis 2022,
arXiv:2111.02403 (intensity variance minimization); HiLab-git/WSL4MIS. The level set term of Mumford-Shah is the same scatter,
summed instead of averaged: `nnunet_ssl.losses.mumford_shah`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def memberships(p: Tensor, activation: str = "softmax") -> Tensor:
    """What voxels can belong to: the classes `(B, C, *spatial)`, or the regions and the outside of each `(B, 2 C, *spatial)`.

    Without the outside, an empty region would have no scatter at all and be the best one.
    """
    return p if activation == "softmax" else torch.cat((p, 1 - p), dim=1)


def intensity_scatter(p: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted squared deviation of the intensities from the mean of each object, and the objects' sizes.

        S_nc = sum_h sum_v p_ncv (I_nhv - mu_nch)^2,    mu_nch = sum_v p_ncv I_nhv / sum_v p_ncv

    Gradients flow through mu as well.

    Args:
        p: memberships or weights of at least 0, `(B, C, *spatial)`.
        images: `(B, channels, *spatial)`, h: channel.

    Returns:
        S and the sizes `sum_v p_ncv` (voxels, at least 1e-6), both `(B, C)`.

    Raises:
        ValueError: batch or spatial sizes differ.
    """
    if p.shape[0] != images.shape[0] or p.shape[2:] != images.shape[2:]:
        raise ValueError(f"probabilities {tuple(p.shape)} and images {tuple(images.shape)} are not of the same patches")
    p, images = in_float32(p).flatten(2), in_float32(images).flatten(2)
    size = p.sum(2).clamp(min=1e-6)
    scatter = torch.zeros_like(size)
    for channel in images.unbind(
        1
    ):  # one at a time: (B, C, channels, *spatial) would be the largest tensor of the step
        intensity = channel[:, None]
        mean = (p * intensity).sum(2) / size
        scatter = scatter + (p * (intensity - mean[..., None]) ** 2).sum(2)
    return scatter, size


def intensity_variance(
    p: Tensor,
    images: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    *,
    without_minimum: bool = False,
) -> Tensor:
    """Variance of the intensities inside each object, summed over objects and image channels, mean over the items
    that have a voxel that counts.

        L = mean_n sum_c S_nc / sum_v p_ncv

    Args:
        p: probabilities `(B, C, *spatial)`.
        images: `(B, channels, *spatial)`.
        activation: what p came from; of regions the outside of each counts as an object too.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        without_minimum: PA-Seg's rule for images with an empty surrounding: voxels that have, in the first channel, the lowest
            intensity of their item do not count for the background (of regions: for what is outside).
    """
    weights = memberships(in_float32(p), activation)
    if without_minimum:
        first = images[:, :1] if mask is None else torch.where(mask, images[:, :1], torch.inf)
        above = images[:, :1] - first.flatten(1).amin(1).view(-1, *(1,) * (images.ndim - 1)) > 1e-5
        background = slice(0, 1) if activation == "softmax" else slice(p.shape[1], None)
        keep = torch.ones((1, weights.shape[1], *(1,) * (p.ndim - 2)), dtype=torch.bool, device=p.device)
        keep[:, background] = False
        weights = weights * (keep | above)
    if mask is not None:
        weights = weights * mask
    scatter, size = intensity_scatter(weights, images)
    # a slice of padding alone has no scatter: as an item it would only make the others count less
    return mean_where((scatter / size).sum(1), None if mask is None else mask.flatten(1).any(1))
