"""SemiSupervised with parts that tell classes apart, to measure them: what they gain is in docs/studies.

nnU-Net finds this trainer because `benchmarks/study.py` names the folder in nnUNet_extTrainer.

    reliability   a label of class c counts r_c in the cross entropy. r_c = precision_c^2 of a foreground class, of the background
                  (min_c recall_c)^2: where a class is not found yet, background is not taught. Both are of hard decisions on
                  labeled patches, old steps counting less.
    thresholds    a label of class c counts where the moving average is at least tau_c = max(0.5, confidence mu_c / max_k mu_k)
                  sure, mu_c the mean confidence of voxels that it gives to c: a class of which it is never sure is taught, too.

The thresholds have the form of Wang et al., "FreeMatch", ICLR 2023 (its class thresholds), of the confidence in the place of the
mean probability. For data sets whose cases annotate all classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.class_counts import ClassCounts
from nnunet_ssl.engine.running_mean import RunningMean
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.masked import mean_where
from nnunet_ssl.losses.region import split_ignored
from nnunet_ssl.losses.self_training import present_dice_loss
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import in_float32, probabilities
from nnunet_ssl.trainers.unlabeled.semi_supervised import nnUNetTrainerSemiSupervised


def reliability_of(counts: Tensor) -> Tensor:
    """r_c of background and foreground classes, `(C,)`, from tp, fp and fn `(3, C - 1)`.

    A class that is never predicted has r_c = 0; one that never occurs has no say in that of the background.
    """
    tp, fp, fn = counts
    recall = torch.where(tp + fn > 0, tp / (tp + fn), 1)
    precision = torch.where(tp + fp > 0, tp / (tp + fp), 0)
    return torch.cat((recall.min()[None], precision)) ** 2


def mean_confidence(labels: Tensor, confidence: Tensor, inside: Tensor, classes: int) -> Tensor:
    """mu_c of one batch, `(classes,)`, NaN where no voxel inside has the label c; arguments `(B, 1, *spatial)`."""
    of_class = torch.where(inside, labels, classes).flatten()  # one class more, for the padding
    number = torch.bincount(of_class, minlength=classes + 1)
    return (torch.bincount(of_class, confidence.flatten(), classes + 1) / number)[:classes]


def thresholds_of(means: Tensor, highest: float) -> Tensor:
    """tau_c = max(0.5, highest mu_c / max_k mu_k)."""
    return (highest * means / means.max()).clamp(min=0.5)


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


class nnUNetTrainerSemiSupervisedByClass(nnUNetTrainerSemiSupervised):
    """SemiSupervised with weights or thresholds of classes. Passes per step: those of SemiSupervised."""

    unsupported = {"regions": "weights and thresholds are of classes, and regions overlap"}

    reliability: bool = False
    thresholds: bool = False
    memory: float = 0.02  # of the run, after which a step counts 1/e

    def build_method(self) -> None:
        super().build_method()
        horizon = self.memory * self.total_steps
        self.counts = ClassCounts(self.num_objects, horizon)
        self.register_module("counts", self.counts, optimizer=None)
        self.means = RunningMean((self.num_objects + 1,), 1 - 1 / max(2.0, horizon), 1.0, self.is_ddp)
        self.register_module("means", self.means, optimizer=None)

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        if self.reliability:
            highest = target[0] if isinstance(target, list) else target
            plain, mask = split_ignored(highest, self.label_manager.ignore_label, False)
            self.counts(logits[0].detach(), plain, mask, None)
        return super().supervised_loss(logits, target, batch)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        labels, confidence = label_and_confidence(probabilities(self.teacher(batch.views["weak"])[0]))
        classes = self.num_objects + 1
        threshold = torch.full((classes,), self.confidence, device=labels.device)
        if self.thresholds:
            threshold = thresholds_of(
                self.means(mean_confidence(labels, confidence, batch.inside, classes)), self.confidence
            )
        sure = confidence >= threshold[labels]
        weights = reliability_of(self.counts.counts) if self.reliability else torch.ones(classes)

        def loss(z: Tensor) -> Tensor:
            return weighted_loss(z, labels, sure, batch.inside, weights, self.is_ddp)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}
