"""Pseudo labels in the form of nnU-Net's targets, so that nnU-Net's own loss takes labeled and unlabeled patches together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.losses.cross_pseudo import hard_pseudo_label


def pseudo_target(logits: Tensor, like: Tensor, activation: str = "softmax", inside: Tensor | None = None) -> Tensor:
    """The hard decision of one head as a target beside `like`: argmax, or p > 0.5 per region.

    Args:
        logits: `(U, C, *spatial)`.
        like: nnU-Net's target of the labeled patches for this head, `(L, 1, *spatial)`, or `(L, R, *spatial)` for regions. One
            channel more than regions marks ignored voxels; a pseudo label ignores none.
        activation: "softmax", or "sigmoid" for regions.
        inside: `(U, 1, *any spatial)` bool. Where it is False the target is background, as in nnU-Net's targets; resized to
            the head by nearest neighbor.

    Returns:
        `(U, channels of like, *spatial)` of the type of `like`, without a gradient.
    """
    label = hard_pseudo_label(logits, activation)
    if activation == "softmax":
        label = label.unsqueeze(1)
    if inside is not None:
        if inside.shape[2:] != label.shape[2:]:
            inside = F.interpolate(inside.float(), size=label.shape[2:], mode="nearest") > 0.5
        label = label * inside
    ignored = like.shape[1] - label.shape[1]
    if ignored:
        label = torch.cat((label, torch.zeros_like(label[:, :1]).expand(-1, ignored, *label.shape[2:])), dim=1)
    return label.to(like.dtype)


def join_targets(target: Tensor | list[Tensor], pseudo: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """`target` with the pseudo targets behind the labeled samples, head by head, in the form that `target` has."""
    if isinstance(target, Tensor):
        return torch.cat((target, pseudo[0]))
    return [torch.cat(pair) for pair in zip(target, pseudo, strict=True)]
