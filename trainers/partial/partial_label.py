"""Partial labels: training on cases of which each has only some classes annotated.

Candidate sets, the marginal loss of Shi et al., Medical Image Analysis 2021
(MIRACLE-Center/Partially-supervised-multi-organ-segmentation), and the target adaptive loss of Fang & Yan, IEEE TMI 2020
(DIAL-RPI/PIPO-FAN), in nnU-Net's terms.

S_b: the background and the classes that case b does not annotate, which is what a stored 0 can mean there.

    L = -mean_v log sum_{c in K_v} p_c - mean_{k annotated} Dice_k,    K_v = {y_v} where y_v > 0, else S_b

Dice_k is over the cases that annotate k. With everything annotated this is nnU-Net's cross entropy and Dice. Regions: binary cross
entropy and Dice of the regions that a case annotates, the form of MultiTalent (Ulrich et al., MICCAI 2023, MIC-DKFZ/MultiTalent).

Differs from the official marginal loss: probabilities are added and not logits (`sum_logits` gives the official form); batches
mix sources; foreground classes only have a Dice, as in nnU-Net; the exclusion loss has weight 0 (official: 2). From MultiTalent:
means over what is annotated instead of sums (`region_reduction`), no head per source. Sampling is MultiTalent's.

nnUNetTrainerPartialLabelMT adds pseudo labels of a moving average of the student (the teacher of Mean Teacher, Tarvainen & Valpola,
NeurIPS 2017), after a warm-up and only where a 0 is stored:

    K_v = {k}, k = argmax_{c in S_b} p'_c, where p'_k / sum_{c in S_b} p'_c >= threshold;    S_b elsewhere

Annotated voxels keep their label; the Dice does not see pseudo labels. No official code; the teacher sees the patch without
nnU-Net's intensity transforms.
"""

from __future__ import annotations

from typing import Literal

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunet_ssl.dataloading.inside import recording_inside
from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Share, Stored, TeacherView, Weight
from nnunet_ssl.losses.candidate_sets import partial_label_loss, partial_region_loss
from nnunet_ssl.partial_trainer import nnUNetTrainerPartial
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.candidates import candidate_pseudo_labels


class nnUNetTrainerPartialLabel(nnUNetTrainerPartial):
    """Partial labels: a 0 means background or a class not annotated in this case.

    Passes per step: nnU-Net's.
    """

    exclusion_weight: Weight = 0.0  # official code of the marginal loss: 2
    sum_logits: bool = False  # True: the marginal loss as in the official code, which is no marginal probability
    # or "sum", MultiTalent: a region has the same gradient in every batch
    region_reduction: Literal["mean", "sum"] = "mean"

    def check_supported(self) -> None:
        super().check_supported()
        if self.label_manager.has_regions and (self.sum_logits or self.exclusion_weight):
            name = type(self).__name__
            raise NotImplementedError(f"{name}: exclusion_weight and sum_logits are for classes, not for regions.")

    def partial_loss(
        self, logits: Tensor, target: Tensor, annotated: Tensor, mask: Tensor | None, batch: SSLBatch
    ) -> Tensor:
        options = {"batch_dice": self.configuration_manager.batch_dice, "all_ranks": self.is_ddp}
        if self.label_manager.has_regions:
            return partial_region_loss(logits, target, annotated, mask, reduction=self.region_reduction, **options)
        options |= {"exclusion_weight": self.exclusion_weight, "sum_logits": self.sum_logits}
        pseudo = self.pseudo_labels(logits, annotated, batch)
        return partial_label_loss(logits, target, annotated, mask, pseudo=pseudo, **options)

    def pseudo_labels(self, logits: Tensor, annotated: Tensor, batch: SSLBatch) -> Tensor | None:
        """Accepted pseudo labels at the resolution of `logits`, `(L, 1, *spatial)`, -1 where there is none."""
        return None


class nnUNetTrainerPartialLabelMT(nnUNetTrainerPartialLabel):
    """Partial labels, and a teacher that labels the classes a case does not annotate.

    Passes per step (F+B on L, F on L): nnU-Net's, and one forward pass of the teacher.
    """

    networks = ("student", "teacher")
    unsupported = {"regions": "pseudo labels choose one of the classes that a voxel may have, and regions overlap"}

    ema_decay: Share = 0.99  # Mean Teacher's in medical segmentation
    warmup_fraction: Share = 0.25  # of the run, without pseudo labels
    competence: Share = 0.7  # F1 of every class that ends it (0: none), at the latest at 0.4 of the run
    threshold: Share = 0.9  # of the probability among the classes that a voxel may have
    teacher_view: TeacherView = "weak"  # without nnU-Net's intensity transforms; or "student", the student's patch
    inference: Stored = "teacher"  # or "student"

    def check_supported(self) -> None:
        super().check_supported()
        if self.sum_logits:
            raise NotImplementedError(f"{type(self).__name__}: sum_logits leaves no probabilities for pseudo labels.")

    def build_method(self) -> None:
        self.register_gate(self.warmup_fraction, f1=self.competence)
        self.teacher = self.register_teacher(self.ema_decay)

    def labeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        return recording_inside(transforms, padding_label=0)  # the padding of patches gets no pseudo label

    def pseudo_labels(self, logits: Tensor, annotated: Tensor, batch: SSLBatch) -> Tensor | None:
        if self.gate.since_opening is None or batch.labeled_inside is None:  # validation has none
            return None
        if "pseudo" not in batch.extras:
            teacher_logits = self.teacher(batch.labeled_views[self.teacher_view])[0]
            found = candidate_pseudo_labels(teacher_logits, annotated, self.threshold)
            batch.extras["pseudo"] = torch.where(batch.labeled_inside, found, -1)
        return resize_nearest(batch.extras["pseudo"], logits.shape[2:])

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
