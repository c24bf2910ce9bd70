"""Cross entropy of the annotated voxels only (pCE), for scribbles, points and other sparse labels.

Tang et al., "Normalized Cut Loss for Weakly-supervised CNN Segmentation", CVPR 2018, arXiv:1804.01346, and before them Lin et al.,
"ScribbleSup", CVPR 2016, arXiv:1604.05144. What the published implementations do differently are two arguments here:

    ===================================  =================================  =============
    code                                 class_weights                      over
    ===================================  =================================  =============
    HiLab-git/WSL4MIS, HiLab-git/PyMIC   none                               "annotated"
    BWGZK/ShapePU                        none                               "annotated"
    BWGZK/CycleMix                       none                               "all"
    MAAG (Valvano et al., TMI 2021)      n / n_c of the batch               "all"
    LIVIAETS/SizeLoss_WSS                1 for chosen classes, 0 else       "annotated"
    ===================================  =================================  =============

Some of them add 1e-12 or 1e-10 to the probability to keep its logarithm finite; a log-softmax needs none. The partial Dice of
WSL4MIS is `nnunet_ssl.losses.region.masked_dice_loss(..., batch=True, squared=True)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.region import masked_cross_entropy


def partial_cross_entropy(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor,
    activation: str = "softmax",
    *,
    class_weights: Tensor | None = None,
    over: str = "annotated",
) -> Tensor:
    """Cross entropy of the annotated voxels A.

        over "annotated": L = sum_{v in A} w_y ce_v / sum_{v in A} w_y
        over "all":       L = sum_{v in A} w_y ce_v / (number of voxels)

    The second scales with the share of voxels that are annotated; the first does not. 0 where nothing is annotated.

    Args:
        logits: `(B, C, *spatial)`.
        target: class indices `(B, 1, *spatial)`, or regions `(B, C, *spatial)`; any class where not annotated.
        annotated: A, bool `(B, 1, *spatial)`.
        activation: "softmax", or "sigmoid" for regions, whose binary cross entropies are averaged.
        class_weights: w, `(C,)`; None: 1. Of classes, not of regions.
        over: "annotated" or "all".

    Raises:
        ValueError: shapes do not fit, class weights of regions, or an unknown `over`.
    """
    if over not in ("annotated", "all"):
        raise ValueError(f"over must be 'annotated' or 'all', got {over!r}")
    weights = annotated.to(torch.float32)
    if class_weights is not None:
        if activation != "softmax" or class_weights.shape != logits.shape[1:2]:
            raise ValueError(
                f"class weights must be one per class ({logits.shape[1]}) of a softmax, got {tuple(class_weights.shape)} "
                f"with activation {activation!r}"
            )
        weights = weights * class_weights.to(torch.float32)[target.long()]
    loss = masked_cross_entropy(logits, target, weights, activation)
    return loss if over == "annotated" else loss * weights.mean()


def inverse_frequency_weights(counts: Tensor, lowest: float = 0.1, highest: float = 10.0) -> Tensor:
    """`w_c = clip(n / (C n_c), lowest, highest)`: the classes weigh alike, whatever the number of their annotated voxels.

    Args:
        counts: annotated voxels per class n_c, `(C,)`; n is their sum. A class without any has the highest weight.
        lowest, highest: limits, so that a class of few voxels does not drown the others.

    Returns:
        `(C,)` float32.

    Raises:
        ValueError: no voxel is annotated.
    """
    total = counts.sum()
    if not total > 0:
        raise ValueError("class weights need annotated voxels, there are none")
    return (total / (len(counts) * counts.double().clamp(min=1e-12))).clamp(lowest, highest).float()
