"""SemiSupervised whose labels are the mean over a patch and its mirror image, to measure what that gains: docs/studies.

nnU-Net predicts with mirroring, and its labels of whole images are better for it. Here the moving average f' sees the patch once
more, mirrored along some of the axes, another choice of axes in every step:

    p = (f'(u_weak) + mirror(f'(mirror(u_weak)))) / 2,   y = argmax p,   M = [max p >= confidence]

Everything else is SemiSupervised's, and so are the labels where nnU-Net mirrors along no axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.self_training import self_training_loss
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

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        choices = mirrorings(self.inference_allowed_mirroring_axes)
        if not choices:
            return super().unlabeled_terms(logits, batch)
        weak, dimensions = batch.views["weak"], choices[self.iteration % len(choices)]
        both = self.teacher(torch.cat((weak, weak.flip(dimensions))))[0]
        labels, confidence = label_and_confidence(
            mean_with_mirror_image(both, dimensions, self.activation), self.activation
        )
        sure = confidence >= self.confidence

        def loss(z: Tensor) -> Tensor:
            return self_training_loss(z, labels, sure, batch.inside, self.activation, all_ranks=self.is_ddp)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}
