"""Cross teaching between a convolutional network and a transformer.

Luo, Hu, Song, Wang, Zhang, "Semi-Supervised Medical Image Segmentation via Cross Teaching between CNN and Transformer", MIDL 2022,
arXiv:2112.04894. Official code: HiLab-git/SSL4MIS (train_cross_teaching_between_cnn_transformer_2D.py).

Cross pseudo supervision between two unlike architectures: each learns the other's hard decision on unlabeled patches, through a
Dice loss, without a threshold:

    L = sum_i L_sup(f_i(x), y) + w_i(t) Dice(p_i(u), argmax f_j(u)),    j the other one
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Network 1 is nnU-Net's; it alone is validated, stored and predicted with. Network 2 is Primus, the vision transformer of
nnU-Net's own package of architectures, in 3D and (in tokens of one slice) in 2D, trained as nnU-Net trains it: AdamW, a warm-up of
0.05 of the run, clipped at a gradient norm of 1.

Differs from the official code: Primus in place of Swin-UNet with weights of ImageNet. Without these a transformer learns
slowly, and what it teaches is poor for long, so it teaches (w_1) only from `transformer_delay` of the run on; the convolutional
network teaches from the start. L_sup is nnU-Net's loss (deep supervision for network 1; Primus has one scale), about twice the
official 0.5 (CE + Dice), so that the official weight is 0.2, at which the gradient of network 1's term was 0.6 % of the labeled
loss's (ACDC in 2D, 3 labeled patients, a trained nnU-Net); Dice of all classes over the batch with squares, as official,
on the highest resolution; networks learn on patches with nnU-Net's intensity transforms what they say without them (official:
none; `teacher_view = "student"`); padding does not count; the ramp moves every iteration; 3D too. Regions: label [p > 0.5].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Amount, BelowOne, Duration, Share, TeacherView, Weight
from nnunet_ssl.losses.mixed_pseudo_labels import pseudo_dice
from nnunet_ssl.networks.transformer import Transformer
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.ramps import delayed, ramped_weight, warmup_poly
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerCrossTeaching(nnUNetTrainerSSL):
    """Cross teaching: nnU-Net's network and a transformer learn each other's hard decisions on unlabeled patches.

    Passes per step (F+B on L+U, F on U, network and transformer): a forward pass of the unlabeled patches without gradient for each
    (the transformer has none with `teacher_view = "student"`), then forward and backward on labeled and unlabeled patches in one
    batch, for the transformer (`transformer_size = "S"`: 24 million parameters) and then for nnU-Net's network.
    """

    networks = ("student", "transformer")
    consistency_weight: Weight = 1.0  # official code: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; official: 30000 of 30000 iterations
    teacher_view: TeacherView = "weak"  # see above; or "student", the patch that is learned from
    transformer_delay: Share = 0.2  # of the run, before the transformer teaches; official: 0
    # of Primus, or "B", "M"; nnU-Net's sizes, 24, 93 and 146 million parameters
    transformer_size: Literal["S", "B", "M"] = "S"
    transformer_lr: Amount = (
        3e-4  # AdamW, betas 0.9, 0.98, weight decay 0.05; nnU-Net's for Primus; official (Swin): SGD, 0.01
    )
    transformer_warmup: Share = 0.05  # of the run, in which its rate rises; nnU-Net's for Primus
    drop_path: BelowOne = 0.2  # stochastic depth of the transformer; nnU-Net's for Primus

    def build_method(self) -> None:
        network = Transformer(
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.configuration_manager.patch_size,
            self.transformer_size,
            self.drop_path,
        )
        self.transformer = self.register_network(
            "transformer", network, optimizer=self.adamw, clip=1.0, supervised=True, follows_pretrained=False
        )

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def adamw(self, parameters) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        options = {"betas": (0.9, 0.98), "weight_decay": 0.05, "fused": self.device.type != "mps"}
        optimizer = torch.optim.AdamW(parameters, self.transformer_lr, **options)
        form = self.num_epochs, round(self.transformer_warmup * self.num_epochs)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: warmup_poly(epoch, *form))

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        if len(logits) == 1 and isinstance(target, list):  # the transformer has no deep supervision
            return self.loss.loss(logits[0], target[0])
        return super().supervised_loss(logits, target, batch)

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        options = {"activation": self.activation, "mask": batch.inside, "all_ranks": self.is_ddp}
        own_view = self.teacher_view != "student"
        teaching = self.logits_of_view(batch, self.teacher_view) if own_view else None
        # the transformer first: with the student's view the other one has a pass without gradient, which is cheap
        order = (self.transformer, self.student)
        for member in self.networks_in_turn(batch, "none" if own_view else "unlabeled", order):
            other, name = self.student, "cross_teaching_transformer"
            if member is self.student:
                other, name = self.transformer, "cross_teaching"
            label = hard_labels(teaching[other.name] if teaching else batch.logits[other.name][0], self.activation)
            yield {
                self.labeled_name(member): self.supervised_loss(batch.labeled_logits[member.name], batch.target, batch),
                name: pseudo_dice(batch.logits[member.name][0], label, **options),
            }

    def weights(self) -> dict[str, float]:
        weight = ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)
        delay = delayed(weight, self.progress, self.transformer_delay)
        return {"cross_teaching": delay, "cross_teaching_transformer": weight}
