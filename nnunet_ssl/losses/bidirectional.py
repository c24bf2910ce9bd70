"""Bidirectional mixes of labeled and pseudo-labeled patches at one scale: what they are labeled with, and which voxels count.

Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023 (BCP).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ssl.losses.region import split_ignored
from nnunet_ssl.patches.mixing import copy_paste, resize_nearest


@dataclass(frozen=True)
class MixedLabels:
    """The labels of B mixes at one scale.

    Attributes:
        labels: labels and pseudo labels, in the form of nnU-Net's target without the ignore label.
        labeled: voxels with a label that is not ignored, bool `(B, 1, *spatial)`.
        pseudo: voxels with a pseudo label that are inside of their image, bool `(B, 1, *spatial)`.
    """

    labels: Tensor
    labeled: Tensor
    pseudo: Tensor

    def weights(self, of_pseudo_labels: float) -> Tensor:
        """1 for labels, the given weight for pseudo labels: `(B, 1, *spatial)` float32."""
        return torch.where(self.pseudo, of_pseudo_labels, 1.0)


def mixed_labels(
    target: Tensor,
    pseudo: Tensor,
    from_labeled: Tensor,
    inside: Tensor,
    ignore_label: int | None = None,
    regions: bool = False,
) -> MixedLabels:
    """Labels of mixes at the scale of `target`; what has another spatial size is resized by nearest neighbor.

    Args:
        target: nnU-Net's, of the labeled patch of each mix.
        pseudo: label map of its unlabeled patch, as `hard_labels` gives it.
        from_labeled: bool `(B, 1, *any spatial)`, where a mix has its labeled patch.
        inside: bool `(B, 1, *any spatial)`, of the unlabeled patches.
        ignore_label: None when the data set has none.
        regions: whether the target is one of regions.
    """
    size = target.shape[2:]
    labels, annotated = split_ignored(target, ignore_label, regions)
    part = resize_nearest(from_labeled, size)
    labeled = part if annotated is None else part & annotated
    labels = copy_paste(labels, resize_nearest(pseudo, size), part)
    return MixedLabels(labels, labeled, ~part & resize_nearest(inside, size))
