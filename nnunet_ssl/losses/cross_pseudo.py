"""Hard pseudo labels of one network as the target of another: cross pseudo supervision.

Chen, Yuan, Zeng & Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021,
arXiv:2106.01226. Official code: charlesCXK/TorchSemiSeg. Medical form: HiLab-git/SSL4MIS,
`code/train_cross_pseudo_supervision_{2D,3D}.py`.

Logits are `(B, C, *spatial)` in 2D or 3D, C classes (activation "softmax", background included) or regions (activation
"sigmoid"). Losses are computed in float32 at least. Pseudo labels never carry a gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.consistency import reduce_voxels
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import in_float32


def _check_activation(activation: str) -> None:
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")


def pseudo_cross_entropy(
    logits: Tensor, label: Tensor, activation: str = "softmax", mask: Tensor | None = None
) -> Tensor:
    """Cross entropy with a hard pseudo label.

        softmax: L = mean_{n,v} -ln softmax(z)_y
        sigmoid: L = mean_{n,c,v} -[y_c ln s(z_c) + (1 - y_c) ln(1 - s(z_c))],    s: sigmoid

    Args:
        logits: z, `(B, C, *spatial)`.
        label: y as `hard_labels` gives it: class indices `(B, 1, *spatial)`, or `(B, C, *spatial)` bool for regions.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None. With no voxel counted the loss is 0.

    Raises:
        ValueError: unknown activation, or label or mask do not fit the logits.
    """
    _check_activation(activation)
    voxels = (logits.shape[0], 1, *logits.shape[2:])
    expected = voxels if activation == "softmax" else tuple(logits.shape)
    if tuple(label.shape) != expected:
        raise ValueError(f"label must have shape {expected} for activation {activation!r}, got {tuple(label.shape)}")
    if mask is not None and (tuple(mask.shape) != voxels or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool of shape {voxels}, got {mask.dtype} of shape {tuple(mask.shape)}")
    logits = in_float32(logits)
    if activation == "softmax":
        values = F.cross_entropy(logits, label[:, 0].long(), reduction="none").unsqueeze(1)
    else:
        values = F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), reduction="none")
    return reduce_voxels(values, mask, "mean")


def cross_pseudo_losses(
    first: Tensor,
    second: Tensor,
    activation: str = "softmax",
    mask: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Each network learns the other's decision: `(CE(z_1, y_2), CE(z_2, y_1))`; eq. 3 of the paper is their sum.

    Args:
        first, second: logits z_1, z_2 of the two networks on the same images, `(B, C, *spatial)`.
        activation: "softmax" or "sigmoid".
        mask: `(B, 1, *spatial)` bool, voxels that count; all if None.
        labels: y_1, y_2 if they were made from other logits than `first` and `second` (CutMix); `hard_labels` of
            these if None.

    Returns:
        The loss of the first and of the second network; no gradient goes from one into the other.

    Raises:
        ValueError: shapes that do not fit, or an unknown activation.
    """
    if first.shape != second.shape:
        raise ValueError(f"both networks must give one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    if labels is None:
        labels = hard_labels(first, activation), hard_labels(second, activation)
    return (
        pseudo_cross_entropy(first, labels[1], activation, mask),
        pseudo_cross_entropy(second, labels[0], activation, mask),
    )


def filtered_cross_entropy(logits: Tensor, labels: Tensor, none: int, activation: str = "softmax") -> Tensor:
    """Cross entropy of the voxels that have a label; 0 with a gradient of 0 where none has (official code: NaN).

        softmax: mean over voxels with u != none of -ln softmax(z)_u
        sigmoid: mean over voxels and regions with u_c != none of the binary cross entropy

    Args:
        logits: z, `(B, C, *spatial)`.
        labels: u as `confident_labels` gives them.
        none: the value of voxels without a label.

    Raises:
        ValueError: the labels do not fit the logits, or an unknown activation.
    """
    channels = {"softmax": 1, "sigmoid": logits.shape[1]}.get(activation)
    if channels is None:
        raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")
    if labels.shape != (logits.shape[0], channels, *logits.shape[2:]):
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}")
    logits, labeled = in_float32(logits), labels != none
    labels = torch.where(labeled, labels, 0)
    if activation == "softmax":
        values = F.cross_entropy(logits, labels[:, 0].long(), reduction="none").unsqueeze(1)
    else:
        values = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return mean_where(values, labeled)
