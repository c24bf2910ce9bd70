"""Short contours: the length of the predicted boundaries, soft and differentiable.

Called total variation in HiLab-git/WSL4MIS and PyMIC after Javanmardi et al., "Unsupervised Total Variation Loss for
Semi-supervised Deep Learning of Semantic Segmentation", arXiv:1605.01368; it is not a sum of differences (that is
`nnunet_ssl.losses.mumford_shah.total_variation`) but a soft morphological gradient of the eroded probability.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.probabilities import in_float32


def soft_contour(p: Tensor, mask: Tensor | None = None) -> Tensor:
    """`dilate(m) - m`, m = erode(p): 1 on a layer of voxels around each eroded object of hard predictions.

    Erosion and dilation are the smallest and the largest value of a 3 x 3 (x 3) window; what lies beyond the image's edge, or is
    not counted, is left out of the windows.

    Args:
        p: probabilities `(B, C, *spatial)`, 2D or 3D.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.

    Returns:
        `(B, C, *spatial)`, at least 0; without meaning where not counted.
    """
    pool = {4: F.max_pool2d, 5: F.max_pool3d}[p.ndim]
    p = in_float32(p)
    # 1 never is the smallest probability of a window and 0 never the largest, unless they are alone
    eroded = -pool(-(p if mask is None else torch.where(mask, p, 1)), 3, 1, 1)
    return pool(eroded if mask is None else torch.where(mask, eroded, 0), 3, 1, 1) - eroded


def contour_length(
    p: Tensor, activation: str = "softmax", mask: Tensor | None = None, *, background: bool = False
) -> Tensor:
    """`mean_{n,c,v} relu(soft_contour(p))`: boundary voxels per voxel.

    Args:
        p: probabilities `(B, C, *spatial)`.
        activation: what they came from.
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        background: whether the contour of channel 0 counts too (classes only; a region is never background).
    """
    if activation == "softmax" and not background:
        p = p[:, 1:]
    return mean_where(F.relu(soft_contour(p, mask)), mask)
