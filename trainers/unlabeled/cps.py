"""Cross pseudo supervision (CPS), in the form used for medical segmentation.

Chen, Yuan, Zeng & Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021, arXiv:2106.01226,
charlesCXK/TorchSemiSeg. Medical form: HiLab-git/SSL4MIS (train_cross_pseudo_supervision_2D.py, ..._3D.py).

Two networks of one architecture start from different random weights. Each learns the other's hard decision, without a
threshold:

    L = sum_i L_sup(f_i(x), y) + w(t) [CE(f_1(u), argmax f_2(u)) + CE(f_2(u), argmax f_1(u))]
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

What is published differs between the two codes; the default is SSL4MIS', on which the figures for medical images rest:

                                        SSL4MIS         TorchSemiSeg, VOC   the same with CutMix
    w                                   0.1, ramped     1.5, no ramp        1, no ramp
    CE also on the labeled images       no              `on_labeled`        no
    unlabeled images cut into others    no              no                  `mix`

For the paper's forms in a subclass: `rampup_fraction = 0.0` and `teacher_view = "student"` with `consistency_weight = 1.5` and
`on_labeled = True`, or with 1.0 and `mix = True`. Its networks start from ImageNet weights; from random ones early pseudo labels
are mostly background, which is what the ramp is for.

Differs from SSL4MIS: L_sup is nnU-Net's loss with deep supervision, about twice the official 0.5 (CE + Dice), so the weight is
twice the official one (TorchSemiSeg has a plain CE as L_sup, so its weights stay as they are); the networks learn on patches with
nnU-Net's intensity transforms what they say without them (official: none; `teacher_view = "student"`: on the same patch); cross
pseudo supervision on the highest resolution only; padding does not count; both networks start with nnU-Net's initialization
(official 3D: Kaiming and Xavier); the ramp moves every iteration. With CutMix the partner of an unlabeled patch is the next one
of the batch (official: one of a second loader). Regions: label [p > 0.5], binary cross entropy. The first network is validated
and stored; `-pretrained_weights` give both the same body, and different heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import warn_of_small_patches
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Count, Duration, PositiveShare, Rising, TeacherView, Weight
from nnunet_ssl.losses.cross_pseudo import pseudo_cross_entropy
from nnunet_ssl.patches.mixing import box_masks, copy_paste
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerCPS(nnUNetTrainerSSL):
    """Cross pseudo supervision: two networks learn each other's hard decisions on unlabeled patches.

    Passes per step (F+B on L+U, F on U, two networks): for each of two networks a forward pass of the unlabeled patches without
    gradient (the first has none with `teacher_view = "student"`, unless they are mixed), then forward and backward on labeled
    and unlabeled patches in one batch, in turn; twice nnU-Net's activation memory.
    """

    networks = ("student", "second")
    consistency_weight: Weight = 0.2  # official code: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; SSL4MIS: 30000 of 30000 iterations; 0: no ramp
    teacher_view: TeacherView = "weak"  # of the labels, see above; or "student", the patch that is learned from
    on_labeled: bool = False  # one mean over labeled and unlabeled patches; SSL4MIS no, TorchSemiSeg yes
    mix: bool = False  # CutMix of unlabeled patches; needs two or more per step and GPU
    # of the image that boxes cover together, drawn between both; TorchSemiSeg
    mix_share: Annotated[tuple[PositiveShare, PositiveShare], Rising()] = (0.25, 0.5)
    mix_boxes: Count = 3  # per image; TorchSemiSeg

    def build_method(self) -> None:
        if self.mix and self.on_labeled:
            raise ValueError("mix and on_labeled exclude each other: the official code mixes unlabeled images only")
        if self.on_labeled and self.teacher_view != "student":
            raise ValueError("on_labeled needs teacher_view = 'student': labeled patches have one view")
        if self.mix:
            refuse_single_patches(self)
            warn_of_small_patches(self)
        self.second = self.register_network("second", supervised=True)

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        labels = self.labels_beforehand(batch)
        of_others = "all" if self.on_labeled else "none" if labels else "unlabeled"
        for member in self.networks_in_turn(batch, of_others):
            labeled = self.supervised_loss(batch.labeled_logits[member.name], batch.target, batch)
            yield {self.labeled_name(member): labeled} | self.cross_pseudo_term(member, labels, batch)

    def labels_beforehand(self, batch: SSLBatch) -> dict[str, Tensor] | None:
        """Pseudo labels by each network: of another view, or of what is mixed here; None: they come from what is learned from."""
        if self.teacher_view == "student" and not self.mix:
            return None
        logits = self.logits_of_view(batch, self.teacher_view)
        labels = {name: hard_labels(z, self.activation) for name, z in logits.items()}
        if self.mix:
            u = batch.unlabeled
            masks = box_masks(len(u), u.shape[2:], self.mix_share, self.mix_boxes, device=u.device)
            batch.unlabeled, batch.inside = (copy_paste(t, t.roll(1, 0), masks) for t in (u, batch.inside))
            labels = {name: copy_paste(label, label.roll(1, 0), masks) for name, label in labels.items()}
        return labels

    def cross_pseudo_term(self, member: NetworkMember, labels: dict[str, Tensor] | None, batch: SSLBatch):
        """The term of one network, which learns what the other one says."""
        other, term = (self.second, "cps_first") if member is self.student else (self.student, "cps_second")
        label = labels[other.name] if labels else hard_labels(self.logits_of(other, batch), self.activation)
        inside = batch.counted() if self.on_labeled else batch.inside
        return {term: pseudo_cross_entropy(self.logits_of(member, batch), label, self.activation, inside)}

    def logits_of(self, member: NetworkMember, batch: SSLBatch) -> Tensor:
        """`(U, C, *spatial)`, or `(L + U, C, *spatial)` with `on_labeled`."""
        unlabeled = batch.logits[member.name][0]
        return torch.cat((batch.labeled_logits[member.name][0], unlabeled)) if self.on_labeled else unlabeled

    def weights(self) -> dict[str, float]:
        weight = ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)
        return {"cps_first": weight, "cps_second": weight}
