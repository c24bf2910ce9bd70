"""AD-MT: alternate diverse teaching.

Zhao, Wang, Wang, Yuan, Zhou, "Alternate Diverse Teaching for Semi-supervised Medical Image Segmentation", ECCV 2024,
arXiv:2311.17325. Official code: ZhenZHAO/AD-MT, with `earliest = competence = 0.0` and `ramp = 0.4`.

A student and two teachers, of which one follows the student while the other one rests; they take turns of random length. In the
first one's turns the student sees strong intensity changes, in the second one's CutMix, which keeps the teachers different:

    p = a f'_1(u) + (1 - a) f'_2(u),    a = e^{-H_1} / (e^{-H_1} + e^{-H_2})
    y = argmax p,  c = max p;  where argmax f'_1 and f'_2 differ and the student is surer of another class: its y and c
    L = L_sup(x, y_x) + w(t) sum_h a_h [ sum_v M ce(f_h(u'), y) / V + 1 - Dice(f_h(u'), y; M) ],    M = [c >= confidence]
    theta'_k <- a_j theta'_k + (1 - a_j) theta in its turn,    a_j = min(1 - 1/(j+1), ema_decay)

u: weak view, H_k: entropy of teacher k in bits, u': strong view of u, or CutMix(u) with y and c mixed alike. j: updates of teacher
k so far. w(t): sigmoid ramp over `ramp` of the run, when every class is found: labels before confirm errors. Before, both follow.

Differs from the official code:
* The loss is that of `nnUNetTrainerSemiSupervised` at half the weight, because it is larger: cross entropy of V voxels and Dice of
  the classes that occur (official 3D: a mean over the confident voxels, NaN where there are none; 2D: Dice).
* In CutMix the student's own label and confidence are mixed (official: compared with another image's). The partner is another
  patch. The strong view instead where a patch shows less than `smallest_share` of the median image: docs/studies.
* The strong view has nnU-Net's intensity transforms (official 3D: brightness and contrast, or noise; 2D: color jitter and blur).
* Until `copy_fraction`, if it starts before, both teachers are copies, from when j counts (official: the active one is, they start
  with other weights, and j is half of the iterations since then).
* u passes the student without a graph. Turns are up to half an epoch of nnU-Net. Padding does not count. Regions: one by one.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.dataloading.views import without_intensity
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.competence import EARLIEST, F1
from nnunet_ssl.engine.features import large_enough_to_mix
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.ranks import of_first_rank
from nnunet_ssl.engine.value_ranges import Duration, Positive, Ratio, Share, Stored, Weight
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.self_training import self_training_loss
from nnunet_ssl.patches.mixing import copy_paste, draw_centered_masks
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.teacher_pair import Alternation, compromise, entropy_weighted_mean
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerADMT(nnUNetTrainerSSL):
    """AD-MT: two teachers that learn in turns, one under intensity changes, one under CutMix, label unlabeled patches together.

    Passes per step (F+B on L+U, 3 F on U): nnU-Net's until the start; then forward and backward on labeled and unlabeled patches
    in one batch; forward passes of the unlabeled ones: one of each teacher and one of the student.
    """

    networks = ("student", "first_teacher", "second_teacher")
    unlabeled_weight: Weight = 1.0  # official code: 2.0, see above
    earliest: Share = EARLIEST  # 0.3 of the run, before which no unlabeled image is used; official: 0
    competence: Share = F1  # 0.7: of every class on labeled patches, or 0.4 of the run, starts it; official: 0
    ramp: Duration = 0.1  # of the run; official: 0.4, 6000 of 15000 iterations (3D), or 0.25, 7500 of 30000 (2D)
    confidence: Share = 0.8  # of a voxel's label, which does not count below; official: 0.8 (3D), 0.95 (2D)
    ema_decay: Share = 0.99  # in a teacher's own turns; as in the official code
    copy_fraction: Share = 0.005  # of the run; official: 80 of 15000 (3D), 100 of 30000 iterations (2D)
    longest_turn: Share = 0.5  # of an epoch; as in the official code, whose epoch is one of the unlabeled cases
    cutmix_alpha: Positive = 4.0  # of the Beta distribution of the mixed share; as in the official code
    smallest_share: Ratio = 0.8  # of the median image along every axis that a patch must show for CutMix; official: any
    inference: Stored = "student"  # as in the official code; or "teacher", the first one

    def build_method(self) -> None:
        self.cutmix = large_enough_to_mix(self, self.smallest_share)
        if self.cutmix:
            refuse_single_patches(self)
        self.register_gate(self.earliest, f1=self.competence)
        self.first = self.register_teacher(self.ema_decay, "first_teacher")
        self.second = self.register_teacher(self.ema_decay, "second_teacher")
        longest = max(1, round(self.longest_turn * self.num_iterations_per_epoch))
        turns = Alternation(lambda: of_first_rank(int(np.random.randint(1, longest + 1)), self.is_ddp))
        self.turns = self.register_state("turns", turns)

    def unlabeled_views(self, intensity):
        return {"strong": intensity, "weak": without_intensity(intensity)}

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        copying = self.progress < self.copy_fraction
        for teacher, active in ((self.first, self.turns.first), (self.second, not self.turns.first)):
            teacher.updating = copying or active
            teacher.updates *= not copying  # 0: it becomes a copy
        weak = batch.views["weak"]
        p, q = (probabilities(teacher(weak)[0], self.activation) for teacher in (self.first, self.second))
        own = probabilities(self.without_gradient(self.student, weak)[0], self.activation)
        conflict = label_and_confidence(p, self.activation)[0] != label_and_confidence(q, self.activation)[0]
        mean = label_and_confidence(entropy_weighted_mean(p, q, self.activation), self.activation)
        label, confidence = compromise(*mean, *label_and_confidence(own, self.activation), conflict)
        if self.cutmix and not self.turns.first:
            masks = draw_centered_masks(len(weak), weak.shape[2:], self.cutmix_alpha, device=weak.device)
            shift = int(np.random.randint(1, len(weak)))
            batch.unlabeled, batch.inside, label, confidence = (
                copy_paste(x, x.roll(shift, 0), masks) for x in (weak, batch.inside, label, confidence)
            )
        self.labels, self.sure = label, confidence >= self.confidence
        return super().terms(batch)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        def loss(z: Tensor) -> Tensor:
            return self_training_loss(z, self.labels, self.sure, batch.inside, self.activation, all_ranks=self.is_ddp)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}

    def after_step(self) -> None:
        if self.gate.since_opening is not None:
            self.turns.step()

    def weights(self) -> dict[str, float]:
        since = self.gate.since_opening
        return {"pseudo": 0.0 if since is None else ramped_weight(self.unlabeled_weight, since, self.ramp)}

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.first, self.inference)
