"""Ambiguity-Consensus Mean Teacher (AC-MT).

Xu, Wang, Lu, Luo, Yan, Zheng & Tong, "Ambiguity-selective consistency regularization for mean-teacher semi-supervised medical
image segmentation", Medical Image Analysis 2023, 102880. Official code: lemoshu/AC-MT.

Mean Teacher that learns only where a prediction is ambiguous, the opposite of UA-MT:
    L    = L_sup(x, y) + w(t) sum_v M_v |p_student(u)_v - p_teacher(u + noise)_v|^2 / (C sum_v M_v)
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

`selection` says what M is (H: entropy in units of ln C; h: threshold that rises from 0.75 to 0.95, with MU to 0.9):

    "entropy" (Ent)               H(p_student(u)) >= h
    "model_uncertainty" (MU)      H(mean of T stochastic passes of the student on u + noise) >= h
    "confident_learning" (S-Err)  the student's label is a suspected error under p_teacher(u), see `confident_learning`
    "prototype" (P-Err)           the student's label is not that of the nearest class prototype in the teacher's features;
                                  a second term is the student's entropy where it is (features at half resolution, as official)

The stochastic passes of MU and P-Err have dropout by forward hooks, as in `ua_mt.py`; training only with `train_with_dropout`.
Differs from the official code: C classes instead of two (ln C, one prototype each); regions one by one; MU is a mean over
channels like the others (official: their sum, for MU twice the weight); the entropy term of P-Err belongs to its voxel (official:
batch and channel axes are mixed up); classes that the teacher does not see in a patch have no prototype (official: one at 0). L_sup
is nnU-Net's, about twice 0.5 (CE + Dice), hence twice the official weight; highest resolution; no padding; the teacher is stored,
and sees u without nnU-Net's intensity transforms, for the reason given in `mean_teacher.py` (`teacher_view = "student"`: with).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Amount, BelowOne, Count, Duration, Positive, Ratio, Weight
from nnunet_ssl.losses.entropy import clean_entropy
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.networks.dropout import HookedDropout
from nnunet_ssl.networks.features import FeatureTap, decoder_stage
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.confident_learning import voxel_label_issues
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.prototype_labels import pass_statistics, prototype_disagreement
from nnunet_ssl.predictions.uncertainty import mean_probabilities, ramped_threshold, relative_entropy, select_ambiguous
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainers.unlabeled.mean_teacher import nnUNetTrainerMeanTeacher

Selection: TypeAlias = Literal["entropy", "model_uncertainty", "confident_learning", "prototype"]


class nnUNetTrainerACMT(nnUNetTrainerMeanTeacher):
    """AC-MT: consistency with a moving average of the student where the prediction is ambiguous.

    Passes per step (F+B on L+U, 1 to 12 F on U): forward and backward on labeled and unlabeled patches in one batch, one
    forward pass of the teacher on the unlabeled ones; further ones there: `passes` (model_uncertainty), 1
    (confident_learning), 1 + `prototype_passes`.
    """

    selection: Selection = "entropy"  # see above
    consistency_weight: Weight = 0.2  # official code: 0.1, see above
    rampup_fraction: Duration = 0.75  # of the run; official: 6000 of 8000 iterations
    threshold_start: Ratio = 0.75  # of the largest entropy; as in the official code
    threshold_end: Ratio = 0.95  # with entropy; as in the official code
    threshold_end_mu: Ratio = 0.9  # with model_uncertainty; as in the official code
    # of confident_learning; or "prune_by_class", "prune_by_noise_rate"
    rule: Literal["both", "prune_by_class", "prune_by_noise_rate"] = "both"
    passes: Count = 8  # of model_uncertainty; as in the official code
    prototype_passes: Count = 10  # as in the official code
    deviation_limit: Amount = 0.1  # of a certain probability over the passes; as in the official code
    temperature: Positive = 2.0  # of the sigmoid in these passes; as in the official code
    dropout: BelowOne = 0.5  # probability that a channel is dropped; as in the official code
    train_with_dropout: bool = False  # official: True; in every pass of student and teacher

    def build_method(self) -> None:
        self.teacher = self.register_teacher(self.ema_decay)
        p = self.dropout if self.train_with_dropout or self.selection in ("model_uncertainty", "prototype") else 0.0
        self.student_dropout = HookedDropout(self.student.module, p, in_training=self.train_with_dropout)
        self.teacher_dropout = HookedDropout(self.teacher.module, p)
        if self.selection == "prototype":
            self.features = FeatureTap(decoder_stage(self.teacher.module, 1), "output", in_evaluation=True)

    def teacher_logits(self, images: Tensor, dropout: bool = False) -> Tensor:
        with self.teacher_dropout.on(dropout or self.train_with_dropout):
            return self.teacher(images)[0]

    def ambiguous(self, entropy: Tensor, end: float) -> Tensor:
        return select_ambiguous(entropy, ramped_threshold(self.progress, self.threshold_start, end))

    def selected(self, student: Tensor, batch: SSLBatch) -> Tensor:
        """The ambiguous voxels: bool `(U, 1, *spatial)`, or per channel `(U, C, *spatial)`."""
        images, activation = batch.unlabeled, self.activation
        if self.selection == "entropy":
            return self.ambiguous(relative_entropy(student, activation), self.threshold_end)
        if self.selection == "model_uncertainty":
            with self.student_dropout.on():
                noisy = (add_clipped_noise(images, self.noise_std) for _ in range(self.passes))
                passes = (self.without_gradient(self.student, x)[0] for x in noisy)
                mean = mean_probabilities(passes, batch.num_unlabeled, activation)
            return self.ambiguous(relative_entropy(mean, activation), self.threshold_end_mu)
        weak = batch.views[self.teacher_view]
        clean = probabilities(self.teacher_logits(weak), activation)
        if self.selection == "confident_learning":
            return voxel_label_issues(student, clean, self.rule, batch.inside, activation)
        passes = ((self.teacher_logits(weak, True), self.features.take()) for _ in range(self.prototype_passes))
        deviation, features = pass_statistics(passes, self.temperature)
        limit = self.deviation_limit
        return prototype_disagreement(student, clean, deviation, features, activation, limit, batch.inside)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        student = probabilities(logits[0], self.activation)
        selected = self.selected(student, batch)
        target = self.teacher_logits(add_clipped_noise(batch.views[self.teacher_view], self.noise_std))
        terms = {"consistency": selective_mse(logits[0], target, selected, self.activation, mask=batch.inside)}
        if self.selection == "prototype":
            terms["clean_entropy"] = clean_entropy(student, selected, batch.inside, self.activation)
        return terms

    def weights(self) -> dict[str, float]:
        weight = ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)
        return {"consistency": weight} | ({"clean_entropy": weight} if self.selection == "prototype" else {})
