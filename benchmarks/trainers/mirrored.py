"""SemiSupervised whose labels are the mean over a patch and its mirror image, to measure what that gains: docs/studies.

nnU-Net predicts with mirroring, and its labels of whole images are better for it. Here the moving average f' sees the patch once
more, mirrored along some of the axes, another choice of axes in every step:

    p = (f'(u_weak) + mirror(f'(mirror(u_weak)))) / 2,   y = argmax p,   confidence max p

Everything else is SemiSupervised's, and so are the labels where nnU-Net mirrors along no axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.trainers.unlabeled.semi_supervised import nnUNetTrainerSemiSupervised


def mirrorings(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """All ways to mirror images `(B, C, *spatial)` along some of the spatial axes (from 0): dimensions for `torch.flip`."""
    dimensions = [axis + 2 for axis in axes or ()]
    return list(chain.from_iterable(combinations(dimensions, n) for n in range(1, len(dimensions) + 1)))


def mean_with_mirror_image(logits: Tensor, dimensions: Sequence[int], activation: str = "softmax") -> Tensor:
    """Mean probabilities `(B, C, *spatial)` from logits `(2 B, C, *spatial)` of images and, behind them, their mirror images."""
    plain, mirrored = probabilities(logits, activation).chunk(2)
    return (plain + mirrored.flip(dimensions)) / 2


class nnUNetTrainerSemiSupervisedMirrored(nnUNetTrainerSemiSupervised):
    """SemiSupervised with labels of two mirror images. Passes per step: those of SemiSupervised, and F on U."""

    def labels_of(self, weak: Tensor) -> tuple[Tensor, Tensor]:
        choices = mirrorings(self.inference_allowed_mirroring_axes)
        if not choices:
            return super().labels_of(weak)
        dimensions = choices[self.iteration % len(choices)]
        both = self.teacher(torch.cat((weak, weak.flip(dimensions))))[0]
        p = mean_with_mirror_image(both, dimensions, self.activation)
        return label_and_confidence(p, self.activation)
