"""The label that two networks' fused beliefs give, each voxel with a weight that moves from certain to uncertain ones.

MEDL, arXiv:2505.12418 (BIBM 2024): the fusion and the weight. Its evidential losses, whose constants are not published, are left
out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.predictions.evidence import asymptotic_weights, beliefs, believed_labels, fused_beliefs


@torch.no_grad()
def fused_label(
    first: Tensor,
    second: Tensor,
    progress: float,
    strength: float,
    activation: str = "softmax",
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The label of the fused beliefs of two networks and `asymptotic_weights`, for `region_loss`. Without a gradient.

    Args:
        first, second: logits of both networks on the same patches, `(B, C, *spatial)`.
        progress: share of the training that is done.
        strength: of the weight, in [0, 1); 0: every voxel counts alike. Of regions the mean over the regions' weights.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.

    Returns:
        the label `(B, 1, *spatial)`, for regions `(B, R, *spatial)`, and the weights `(B, 1, *spatial)`, 0 outside the mask.
    """
    axis = 2 if activation == "sigmoid" else 1
    belief, uncertainty = fused_beliefs(beliefs(first, activation), beliefs(second, activation), axis)
    uncertainty = uncertainty[:, :, 0] if activation == "sigmoid" else uncertainty
    weights = asymptotic_weights(uncertainty, progress, strength, mask).mean(1, keepdim=True)
    return believed_labels(belief, activation), weights
