"""Uncertainty-aware Mean Teacher (UA-MT).

Yu, Wang, Li, Fu & Heng, "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation", MICCAI 2019,
arXiv:1907.07034. Official code: yulequan/UA-MT (train_LA_meanteacher_certainty_unlabel.py); 2D and 3D also HiLab-git/SSL4MIS.

Mean Teacher that learns only where the teacher is certain, i.e. where T stochastic passes of it have a mean of low entropy:

    L    = L_sup(x, y) + w(t) sum_v M_v |p_student(u)_v - p_teacher(u + noise)_v|^2 / (C sum_v M_v)
    M_v  = [ -sum_c mu_cv ln mu_cv < H(t) ],    mu = mean over T passes of p_teacher(u + noise, dropout)
    H(t) = (0.75 + 0.25 exp(-5 (1 - progress)^2)) ln C,    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Dropout: nnU-Net's networks have none. Forward hooks on the teacher drop whole channels after the bottleneck and before the last
segmentation layer, where the official V-Net has its Dropout3d, in the T passes; the state dict keeps its keys and validation
has no dropout (`nnunet_ssl.networks.dropout`). The student is trained without dropout, so that its labeled step is nnU-Net's;
`train_with_dropout = True` follows the paper: dropout in every pass of the student too, and in the target pass.
`dropout = 0` leaves the input noise as the only source of uncertainty.

Differs from the official code: ln C and C instead of ln 2 and 2 (equal for two classes; the ports to more classes keep 2, so
the loss is C/2 times larger and at most half of the range of entropies is accepted: `two_class_constants = True`); region-based
training has a binary entropy and a selection per region; L_sup is nnU-Net's loss with deep supervision, about twice the
official 0.5 (CE + Dice), and weight and the teacher's view are Mean Teacher's, for its reasons; consistency on the highest
resolution only; padding does not count; the ramp moves every iteration instead of every 150; the teacher is in evaluation mode
apart from dropout (instance norm is the same in both) and it is the teacher that is validated and stored (official: the
student; `inference = "student"`).
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import BelowOne, Count, Ratio
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.networks.dropout import HookedDropout
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    select_certain,
)
from nnunet_ssl.trainers.unlabeled.mean_teacher import nnUNetTrainerMeanTeacher


class nnUNetTrainerUAMT(nnUNetTrainerMeanTeacher):
    """UA-MT: consistency with a moving average of the student where its stochastic passes agree with each other.

    Passes per step (F+B on L+U, 9 F on U): forward and backward on labeled and unlabeled patches in one batch, 1 + `passes`
    forward passes of the teacher on the unlabeled ones.
    """

    passes: Count = 8  # stochastic teacher passes, the paper's T; as in the official code
    dropout: BelowOne = 0.5  # probability that a channel is dropped; as in the official code
    train_with_dropout: bool = False  # official: True, see above
    threshold_start: Ratio = 0.75  # of the largest entropy; as in the official code
    threshold_end: Ratio = 1.0  # of the largest entropy; as in the official code
    two_class_constants: bool = False  # the released code's ln 2 and 2 whatever the number of classes

    def build_method(self) -> None:
        self.teacher = self.register_teacher(self.ema_decay)
        self.teacher_dropout = HookedDropout(self.teacher.module, self.dropout)
        if self.train_with_dropout:
            HookedDropout(self.student.module, self.dropout, in_training=True)

    def noisy_teacher(self, images: Tensor, dropout: bool) -> Tensor:
        """The teacher's logits at full resolution for images with noise of its own."""
        noisy = add_clipped_noise(images, self.noise_std)
        if not dropout:
            return self.teacher(noisy)[0]
        with self.teacher_dropout.on():
            return self.teacher(noisy)[0]

    def certain(self, images: Tensor) -> Tensor:
        """Where the teacher is certain: bool `(B, 1, *spatial)`, or `(B, regions, *spatial)`."""
        passes = (self.noisy_teacher(images, dropout=True) for _ in range(self.passes))
        mean = mean_probabilities(passes, len(images), self.activation)
        largest = max_entropy(2 if self.two_class_constants else mean.shape[1], self.activation)
        threshold = ramped_threshold(self.progress, self.threshold_start, self.threshold_end, largest)
        return select_certain(predictive_entropy(mean, self.activation), threshold)

    def consistency(self, logits: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        """The student's `logits` against what the teacher is certain of in `images`, inside the image."""
        return selective_mse(
            logits,
            self.noisy_teacher(images, dropout=self.train_with_dropout),
            self.certain(images),
            self.activation,
            mask=inside,
            channels=2 if self.two_class_constants else None,
        )

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        return {"consistency": self.consistency(logits[0], batch.views[self.teacher_view], batch.inside)}
