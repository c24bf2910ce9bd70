"""BCP: bidirectional copy-paste.

Bai, Chen, Li, Shen, Wang, "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023,
arXiv:2305.00673. Official code: DeepMed-Lab-ECNU/BCP.

With one box per step (M: 1 outside of it) labeled images x and unlabeled images u are mixed in both directions, and so are the
labels y and the pseudo labels q of a teacher (hard, largest component per class):

    in:  x M + u (1 - M)  with  y M + q (1 - M)            out:  u M + x (1 - M)  with  q M + y (1 - M)
    L = sum over both of  l(labeled part) + pseudo_weight l(pseudo-labeled part),   l = 0.5 (CE + Dice) on the part's own voxels
    theta' <- ema_decay theta' + (1 - ema_decay) theta

For `pretrain_fraction` of the run before, and until every class is found, labeled images are pasted into labeled ones.

Differs from the official code: l has nnU-Net's forms of Dice (foreground or regions, batch Dice as planned) on every scale with
nnU-Net's scale weights; the sum over two directions of 0.5 (CE + Dice) is as large as nnU-Net's loss, so nothing is rescaled.
Pre-training has nnU-Net's own loss on the mixed labels; its last student goes on (official: the best, for LA on test cases; a new
optimizer). Every patch is used once (or again: at least two mixes), half of them in each direction, as official; pre-training mixes
all labeled patches (official: half). The teacher's: without intensity transforms, as official. No label in padding. No dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import warn_of_small_patches
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Share, TeacherView, Weight
from nnunet_ssl.losses.bidirectional import MixedLabels, mixed_labels
from nnunet_ssl.losses.region import region_loss
from nnunet_ssl.patches.mixing import both_directions, copy_paste, outside_one_box, paste_next
from nnunet_ssl.predictions.hard_labels import hard_labels, start_largest_components
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerBCP(nnUNetTrainerSSL):
    """BCP: unlabeled patches pasted into labeled ones and the reverse, with a teacher's pseudo labels.

    Passes per step (F+B on mixes, F on U): forward and backward of as many mixed patches as there are labeled (or unlabeled,
    if more), one forward pass of the teacher on the unlabeled patches. None of the teacher in pre-training.
    """

    networks = ("student", "teacher")
    replaces_labeled_loss = True
    pseudo_weight: Weight = 0.5  # of pseudo-labeled against labeled voxels; as in the official code
    box_ratio: Share = 2 / 3  # of the patch per axis; as in the official code
    ema_decay: Share = 0.99  # as in the official code, no warm-up
    pretrain_fraction: Share = 0.25  # of the run; official code: 10000 of 40000 (ACDC), 2000 of 17000 (LA) iterations
    competence: Share = 0.7  # F1 of every class that ends it (0: none, as official), at the latest at 0.4 of the run
    teacher_view: TeacherView = "weak"  # without nnU-Net's intensity transforms; or "student", the patch that is mixed
    largest_component: bool = True  # of each class, as in the official code; False where a class has several parts

    def build_method(self) -> None:
        warn_of_small_patches(self)
        self.register_gate(self.pretrain_fraction, f1=self.competence)
        self.teacher = self.register_teacher(self.ema_decay, warmup=False)

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    @property
    def pretraining(self) -> bool:
        return self.gate.since_opening is None

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        self.teacher.decay = 0.0 if self.pretraining else self.ema_decay  # 0: the teacher is a copy of the student
        outside = outside_one_box(batch.labeled, self.box_ratio)
        yield from (self.pretraining_terms if self.pretraining else self.mixing_terms)(batch, outside)

    def pretraining_terms(self, batch: SSLBatch, outside: Tensor) -> Iterator[dict[str, Tensor]]:
        """nnU-Net's loss on labeled patches with the next labeled patch pasted into them."""
        images, target = self.mix_labeled(batch, outside)
        yield {"labeled": self.supervised_loss(self.student(images), target, batch)}

    def mix_labeled(self, batch: SSLBatch, outside: Tensor) -> tuple[Tensor, Tensor | list[Tensor]]:
        targets = [paste_next(target, outside) for target in as_scales(batch.target)]
        return paste_next(batch.labeled, outside), targets if self.enable_deep_supervision else targets[0]

    def mixing_terms(self, batch: SSLBatch, outside: Tensor) -> Iterator[dict[str, Tensor]]:
        """Losses on the labeled and on the pseudo-labeled part of both mixes."""
        images, labels = self.mix(batch, outside)
        yield self.mix_losses(self.student(images), labels())

    def mix(self, batch: SSLBatch, outside: Tensor) -> tuple[Tensor, Callable[[], list[MixedLabels]]]:
        """The mixes, labeled patches with a box of unlabeled ones first, and what gives their labels at every scale."""
        numbers = torch.arange(count := max(2, batch.num_labeled, batch.num_unlabeled), device=outside.device)
        first, second = numbers % batch.num_labeled, numbers % batch.num_unlabeled
        from_labeled = both_directions(outside, count)
        pseudo = hard_labels(self.teacher(batch.views[self.teacher_view])[0], self.activation)
        form = from_labeled, batch.inside[second], self.label_manager.ignore_label, self.label_manager.has_regions
        filtered = start_largest_components(pseudo) if self.largest_component else lambda: pseudo

        def labels() -> list[MixedLabels]:
            kept = filtered()[second]
            return [mixed_labels(target[first], kept, *form) for target in as_scales(batch.target)]

        return copy_paste(batch.labeled[first], batch.unlabeled[second], from_labeled), labels

    def mix_losses(self, scales: list[Tensor], labels: list[MixedLabels]) -> dict[str, Tensor]:
        sums = {"labeled": 0.0, "pseudo": 0.0}
        for logits, mixed, weight in zip(scales, labels, self.scale_weights):
            half = (len(logits) + 1) // 2
            for way in (slice(None, half), slice(half, None)) if weight else ():
                for name, mask in (("labeled", mixed.labeled), ("pseudo", mixed.pseudo)):
                    sums[name] += weight * self.part_loss(logits[way], mixed.labels[way], mask[way])
        return sums

    def part_loss(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """`0.5 (CE + Dice)` on the voxels in the mask, with the Dice of nnU-Net's loss."""
        dice = {"batch": self.configuration_manager.batch_dice, "background": False}
        return region_loss(logits, labels, mask, self.activation, **dice, all_ranks=dice["batch"] and self.is_ddp)

    def weights(self) -> dict[str, float]:
        return {"pseudo": 0.0 if self.pretraining else self.pseudo_weight}
