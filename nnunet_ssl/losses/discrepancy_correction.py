"""Losses on the voxels where two networks disagree: correct what is wrong, and do not be sure of it.

Song & Wang, "SDCL: Students Discrepancy-Informed Correction Learning for Semi-supervised Medical Image Segmentation", MICCAI 2024,
arXiv:2409.16728. Official code: pascalcpp/SDCL (`mix_mse_loss`, `mix_max_kl_loss` of ACDC_train.py). Logits `(B, C, *spatial)` in
2D or 3D; C classes ("softmax", background included) or regions ("sigmoid"). Targets as nnU-Net's: class indices `(B, 1, *spatial)`,
or 0/1 per region `(B, C, *spatial)`. In float32 at least; 0 with a gradient of 0 where no voxel counts.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import in_float32, probabilities


def correction_loss(
    logits: Tensor, target: Tensor, differ: Tensor, weights: Tensor, activation: str = "softmax"
) -> Tensor:
    """Squared error where the networks disagree.

        L = sum_v D_v w_v mean_c (p_vc - y_vc)^2 / sum_v D_v;    regions: D and the error per region

    Args:
        logits: of one network.
        target: y, labels and pseudo labels.
        differ: D, `disagreement` of the voxels that count, bool `(B, 1, *spatial)`, per region `(B, C, *spatial)`.
        weights: w, `(B or 1, 1, *spatial)`; official: 1 for labels, 0.5 for pseudo labels.
    """
    error = (probabilities(logits, activation) - one_hot(target, logits.shape[1], activation)) ** 2
    error = error.mean(1, keepdim=True) if activation == "softmax" else error
    return mean_where(weights * error, differ)


def doubt_loss(logits: Tensor, target: Tensor, differ: Tensor, weights: Tensor, activation: str = "softmax") -> Tensor:
    """Cross entropy with the uniform distribution where the networks disagree and this one is wrong.

        L = sum_v D_v E_v w_v mean_c -ln p_vc / sum_v D_v E_v,    E_v: argmax p_v is not y_v

    It is KL(uniform || p) plus ln C: smallest, not 0, where the network does not know at all. Regions: of inside and outside, each
    region by itself. Arguments as in `correction_loss`.
    """
    logits = in_float32(logits)
    if activation == "softmax":
        values = -F.log_softmax(logits, 1).mean(1, keepdim=True)
        wrong = hard_labels(logits) != target.long()
    else:
        values = -(F.logsigmoid(logits) + F.logsigmoid(-logits)) / 2
        wrong = hard_labels(logits, activation) != (target > 0)
    return mean_where(weights * values, differ & wrong)
