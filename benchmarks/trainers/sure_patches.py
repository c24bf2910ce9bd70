"""SemiSupervised that leaves patches out whose foreground it hardly finds, to measure what that gains: docs/studies.

nnU-Net finds this trainer because `benchmarks/study.py` names the folder in nnUNet_extTrainer. Of an organ that is hardly found
some voxels are labeled, more are unsure, and the background around is sure: that there is no organ is all that would be taught. So
a patch counts only where at least `sure_foreground` of what may be foreground (labeled so, or not sure) surely is. That leaves out
patches without an organ, too, in which a single voxel is unsure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.engine.value_ranges import Share
from nnunet_ssl.trainers.unlabeled.semi_supervised import nnUNetTrainerSemiSupervised


def sure_share(labels: Tensor, sure: Tensor, inside: Tensor) -> Tensor:
    """Of the voxels inside that may be foreground (labeled so, or not sure), the share that surely is; 1 where there are none.

    Small where a network hardly finds an organ: some of it is labeled, more of it is unsure, and the background around is sure.

    Args:
        labels: as `label_and_confidence` gives them, `(B, 1, *spatial)` classes, or `(B, R, *spatial)` regions.
        sure: bool of this shape, where they count.
        inside: `(B, 1, *spatial)` bool, the voxels of the image.

    Returns:
        of each patch, and region, `(B, 1 or R, 1, ...)`.
    """
    axes = tuple(range(2, labels.ndim))
    foreground = labels > 0
    surely = (foreground & sure & inside).sum(axes, keepdim=True)
    possibly = ((foreground | ~sure) & inside).sum(axes, keepdim=True)
    return torch.where(possibly > 0, surely / possibly.clamp(min=1), 1.0)


class nnUNetTrainerSemiSupervisedSurePatches(nnUNetTrainerSemiSupervised):
    """SemiSupervised with patches that do not count. Passes per step: those of SemiSupervised."""

    sure_foreground: Share = 0.5
    keeps_foreground: bool = False  # labels of foreground count in all patches, those of background in some

    def sure(self, labels: Tensor, confidence: Tensor, inside: Tensor) -> Tensor:
        sure = super().sure(labels, confidence, inside)
        found = sure_share(labels, sure, inside) >= self.sure_foreground
        return sure & (found | (labels > 0) if self.keeps_foreground else found)
