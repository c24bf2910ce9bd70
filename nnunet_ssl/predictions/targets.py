"""Pseudo labels in the form of nnU-Net's targets, so that nnU-Net's own loss takes labeled and unlabeled patches together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.hard_labels import hard_labels


def as_target(label: Tensor, like: Tensor, inside: Tensor | None = None) -> Tensor:
    """A hard label map as nnU-Net's target of one scale.

    Args:
        label: `(U, 1, *any spatial)` class indices, or `(U, R, *any spatial)` regions; resized to the scale by nearest neighbor.
        like: nnU-Net's target of this scale, `(L, 1, *spatial)`, or `(L, R, *spatial)` for regions. One channel more than
            regions marks ignored voxels; a pseudo label ignores none.
        inside: `(U, 1, *any spatial)` bool. Where it is False the target is background, as in nnU-Net's targets; resized too.

    Returns:
        `(U, channels of like, *spatial)` of the type of `like`.
    """
    size = like.shape[2:]
    label = resize_nearest(label, size)
    if inside is not None:
        label = label * resize_nearest(inside, size)
    ignored = like.shape[1] - label.shape[1]
    if ignored:
        label = torch.cat((label, torch.zeros_like(label[:, :1]).expand(-1, ignored, *size)), dim=1)
    return label.to(like.dtype)


def pseudo_target(logits: Tensor, like: Tensor, activation: str = "softmax", inside: Tensor | None = None) -> Tensor:
    """The hard decision of one scale as a target beside `like`: argmax, or p > 0.5 per region.

    Args:
        logits: `(U, C, *spatial)`.
        activation: "softmax", or "sigmoid" for regions.
        like, inside: as in `as_target`; `like` of the logits' spatial shape.

    Returns:
        `(U, channels of like, *spatial)` of the type of `like`, without a gradient.
    """
    return as_target(hard_labels(logits, activation), like, inside)


def join_targets(target: Tensor | list[Tensor], pseudo: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """`target` with the pseudo targets behind the labeled samples, scale by scale, in the form that `target` has."""
    if isinstance(target, Tensor):
        return torch.cat((target, pseudo[0]))
    return [torch.cat(pair) for pair in zip(target, pseudo, strict=True)]
