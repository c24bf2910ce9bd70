"""Two networks learn the label of their fused beliefs, each voxel with a weight that moves from certain to uncertain ones.

MEDL, arXiv:2505.12418 (BIBM 2024): the fusion and the weight. Its evidential losses, whose constants are not published, are left
out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.region import region_loss
from nnunet_ssl.predictions.evidence import asymptotic_weights, beliefs, believed_labels, fused_beliefs


def fused_label_losses(
    first: Tensor,
    second: Tensor,
    progress: float,
    strength: float,
    activation: str = "softmax",
    mask: Tensor | None = None,
    **dice,
) -> tuple[Tensor, Tensor]:
    """`region_loss` of both networks with the label that their fused beliefs give, voxels weighted by `asymptotic_weights`.

    Args:
        first, second: logits of both networks on the same patches, `(B, C, *spatial)`.
        progress: share of the training that is done.
        strength: of the weight, in [0, 1); 0: every voxel counts alike. Of regions the mean over the regions' weights.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        dice: the options of the Dice loss.

    Returns:
        the loss of the first and of the second network; labels and weights carry no gradient.
    """
    axis = 2 if activation == "sigmoid" else 1
    with torch.no_grad():
        belief, uncertainty = fused_beliefs(beliefs(first, activation), beliefs(second, activation), axis)
        label = believed_labels(belief, activation)
        uncertainty = uncertainty[:, :, 0] if activation == "sigmoid" else uncertainty
        weights = asymptotic_weights(uncertainty, progress, strength, mask).mean(1, keepdim=True)
    return (
        region_loss(first, label, weights, activation, **dice),
        region_loss(second, label, weights, activation, **dice),
    )
