"""SemiSupervised whose labels count as much as their class is reliable, to measure what that gains: docs/studies.

nnU-Net finds this trainer because `benchmarks/study.py` names the folder in nnUNet_extTrainer. A label of class c counts r_c in
the cross entropy, precision_c^2 of a foreground class and (min_c recall_c)^2 of the background: where a class is not found yet,
background is not taught. Both are of hard decisions on labeled patches, old steps counting less. For data sets whose cases
annotate all classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.class_counts import ClassCounts
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import split_ignored
from nnunet_ssl.losses.self_training import present_dice_loss
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.probabilities import in_float32
from nnunet_ssl.trainers.unlabeled.semi_supervised import nnUNetTrainerSemiSupervised


def reliability_of(counts: Tensor) -> Tensor:
    """r_c of background and foreground classes, `(C,)`, from tp, fp and fn `(3, C - 1)`.

    A class that is never predicted has r_c = 0; one that never occurs has no say in that of the background.
    """
    tp, fp, fn = counts
    recall = torch.where(tp + fn > 0, tp / (tp + fn), 1)
    precision = torch.where(tp + fp > 0, tp / (tp + fp), 0)
    return torch.cat((recall.min()[None], precision)) ** 2


def weighted_loss(
    logits: Tensor, labels: Tensor, sure: Tensor, inside: Tensor, weights: Tensor, all_ranks: bool
) -> Tensor:
    """`self_training_loss` with the cross entropy of a voxel times the weight of its label; the Dice is without labels of weight 0.

    Args:
        logits: `(B, C, *spatial)`; labels, sure and inside `(B, 1, *spatial)`, resized to them.
        weights: `(C,)`.
    """
    labels, sure, inside = (resize_nearest(m, logits.shape[2:]) for m in (labels, sure, inside))
    weight = weights.to(logits.device)[labels[:, 0]][:, None]
    values = F.cross_entropy(in_float32(logits), labels[:, 0], reduction="none")[:, None]
    cross_entropy = mean_where(torch.where(sure, weight * values, 0), inside)
    return cross_entropy + present_dice_loss(logits, labels, sure & (weight > 0), inside, all_ranks=all_ranks)


class nnUNetTrainerSemiSupervisedReliability(nnUNetTrainerSemiSupervised):
    """SemiSupervised with weights of classes. Passes per step: those of SemiSupervised."""

    unsupported = {"regions": "weights are of classes, and regions overlap"}

    def build_method(self) -> None:
        super().build_method()
        self.counts = ClassCounts(self.num_objects, self.memory * self.total_steps)
        self.register_module("counts", self.counts, optimizer=None)

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        highest = target[0] if isinstance(target, list) else target
        plain, mask = split_ignored(highest, self.label_manager.ignore_label, False)
        self.counts(logits[0].detach(), plain, mask, None)
        return super().supervised_loss(logits, target, batch)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        labels, confidence = self.labels_of(batch.views["weak"])
        sure, weights = self.sure(labels, confidence, batch.inside), reliability_of(self.counts.counts)

        def loss(z: Tensor) -> Tensor:
            return weighted_loss(z, labels, sure, batch.inside, weights, self.is_ddp)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}
