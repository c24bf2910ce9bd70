"""MCF: mutual correction framework.

Wang, Xiao, Bi, Li, Gao, "MCF: Mutual Correction Framework for Semi-Supervised Medical Image Segmentation", CVPR 2023,
pp. 15651-15660. Official code: WYC-321/MCF.

Two networks of different architecture see the same patches, n in {A, B}:

    L_n = L_sup,n + rectification_weight R_n + w(t) U_n
    R_n = sum_v D_v mean_c (p_n,vc - y_vc)^2 / sum_v D_v,    D: labeled voxels where the hard predictions of A and B differ
    U_n = mean_{n,c,v} (p_n - q)^2 on unlabeled patches if n is the worse network of this step, else 0
    q = sharpened prediction of the better network, p^(1/T) / sum_c p^(1/T); better: lower Dice loss on this step's labeled patches
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

`fusion = True` is what MEDL (arXiv:2505.12418, no code) does on unlabeled patches, which brought 2.6 of its 4.9 Dice: U_n = omega
(CE + Dice) / 2 with the label of both networks' fused beliefs, omega: voxels weigh more that are certain first, uncertain later
(`losses/fused_labels.py`). Its fusion and omega on labels and its evidential losses are left out: it does not say how. Decided
here: evidence is softplus of the logits, labels have MCF's loss.

Differs from the official code:
* A is the planned network (stored, validated and predicted with alone, so that stock nnU-Net can load it), B the U-Net with a
  residual encoder made from the same plans (a plain one where the plans are residual). Official: V-Net and a 3D ResNet-34 with a
  decoder; predictions are the mean of both networks' probabilities.
* L_sup is nnU-Net's loss: CE + Dice, not halved, as is the official one. R weighs as published, U 25 times; highest resolution.
* q sees the patches without nnU-Net's intensity transforms, p_n with them (official: none; `teacher_view = "student"`).
* Any number of classes: D where the classes differ, mean over channels; for two classes this is the term of the official code.
  Regions: D and R per region, sigmoid. Ignored voxels are in neither D nor the score; padding is not in U.
* The score is the mean Dice loss of the foreground classes (over all GPUs); ties go to B, as in the official code.
* nnU-Net's optimizer and schedule for each network, each clipped by itself; the ramp moves every iteration; no dropout.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import LABELED
from nnunet_ssl.engine.members import NetworkMember, as_scales
from nnunet_ssl.engine.value_ranges import BelowOne, Duration, Positive, TeacherView, Weight
from nnunet_ssl.losses.fused_labels import fused_label
from nnunet_ssl.losses.mutual_correction import competing_label, disagreement, mutual_loss, rectification_loss
from nnunet_ssl.losses.region import masked_dice_loss, region_loss, split_ignored
from nnunet_ssl.networks.counterpart import build_counterpart
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerMCF(nnUNetTrainerSSL):
    """MCF: two different networks, the worse one of each step follows the better one; both are corrected where they differ.

    Passes per step (F+B on L+U, F on U, two networks): for both networks a forward pass of the unlabeled patches without gradient
    (not of the first with `teacher_view = "student"`), for the second one of the labeled ones, too; then forward and backward of
    all patches (4 times nnU-Net's step) in turn; three times nnU-Net's activation memory.
    """

    networks = ("student", "second")
    consistency_weight: Weight = 2.5  # official code: 0.1, a gradient of 0.4 % of the labeled loss's (docs/studies)
    rampup_fraction: Duration = 1.0  # of the run; official: 40 * 150 of 6000 iterations; 0: no ramp
    rectification_weight: Weight = 0.5  # as in the official code
    temperature: Positive = 0.1  # of the sharpening; as in the official code
    teacher_view: TeacherView = "weak"  # of q, see above; or "student", the patch that is learned from
    fusion: bool = False  # MEDL's in place of U, see above
    fusion_weight: Weight = 1.0  # of its loss; MEDL: 1
    omega: BelowOne = 0.5  # strength of MEDL's weight of voxels, 0: none; not published
    term_patches = dict.fromkeys(("rectification", "rectification_second"), LABELED)

    def build_method(self) -> None:
        form = self.num_input_channels, self.label_manager.num_segmentation_heads, self.enable_deep_supervision
        network = build_counterpart(self.configuration_manager, *form)
        self.second = self.register_network("second", network, supervised=True, follows_pretrained=False)

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        own_view = self.teacher_view != "student"
        teaching = self.logits_of_view(batch, self.teacher_view) if own_view else None
        for member in self.networks_in_turn(batch, of_others="labeled" if own_view else "all"):
            labeled = self.supervised_loss(batch.labeled_logits[member.name], batch.target, batch)
            of_unlabeled = teaching or {name: scales[0] for name, scales in batch.logits.items()}
            yield {self.labeled_name(member): labeled} | self.correction_terms(member, of_unlabeled, batch)

    def correction_terms(self, member: NetworkMember, teaching: dict[str, Tensor], batch: SSLBatch):
        """R and U of one network; `teaching`: logits of both on the unlabeled patches, from which their label comes."""
        on_labeled = {name: batch.labeled_logits[name][0] for name in ("student", "second")}
        labels = self.label_manager
        target, annotated = split_ignored(as_scales(batch.target)[0], labels.ignore_label, labels.has_regions)
        differ = disagreement(on_labeled["student"], on_labeled["second"], self.activation, annotated)
        score, other_score = (self.score(logits, target, annotated) for logits in on_labeled.values())
        suffix = "" if member is self.student else "_second"
        return {
            f"rectification{suffix}": rectification_loss(on_labeled[member.name], target, differ, self.activation),
            f"mutual{suffix}": self.mutual_term(member, teaching, score < other_score, batch),
        }

    def mutual_term(self, member, teaching: dict[str, Tensor], first_is_better: Tensor, batch: SSLBatch) -> Tensor:
        """U of one network on the unlabeled patches."""
        logits, both = batch.logits[member.name][0], (teaching["student"], teaching["second"])
        if self.fusion:
            label, weights = fused_label(*both, self.progress, self.omega, self.activation, batch.inside)
            form = {"batch": self.configuration_manager.batch_dice, "background": False, "all_ranks": self.is_ddp}
            return region_loss(logits, label, weights, self.activation, **form)
        label = competing_label(*both, first_is_better, self.temperature, self.activation)
        is_better = first_is_better if member is self.student else ~first_is_better
        return mutual_loss(logits, label, is_better, self.activation, batch.inside)

    @torch.no_grad()
    def score(self, logits: Tensor, target: Tensor, annotated: Tensor | None) -> Tensor:
        """Dice loss of the foreground on this step's labeled patches (of all GPUs, so that they agree who is better)."""
        form = {"batch": True, "squared": True, "background": False, "all_ranks": self.is_ddp}
        return masked_dice_loss(logits, target, annotated, self.activation, **form)

    def weights(self) -> dict[str, float]:
        final = self.fusion_weight if self.fusion else self.consistency_weight
        mutual = ramped_weight(final, self.progress, self.rampup_fraction)
        weights = {"rectification": self.rectification_weight, "mutual": mutual}
        return weights | {f"{term}_second": weight for term, weight in weights.items()}
