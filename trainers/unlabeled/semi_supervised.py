"""Semi-supervised nnU-Net without a choice: nnU-Net until it knows every class, then confident labels of its moving average.

Stage 0 is nnU-Net, bit for bit, until every class has an F1 of at least `competence` on labeled patches (between `earliest` and
`latest` of the run). From then on a moving average f' of the network labels unlabeled patches, and the network learns these labels
on the same patches with other intensities and blank rectangles:

    y = argmax f'(u_weak),   M = [max f'(u_weak) >= tau_y],   tau_c = max(0.5, confidence mu_c / max_k mu_k)
    L = L_nnunet(f(x), y_x) + w(t) sum_h a_h [ sum_v M ce(f_h(u_strong), y) / V + 1 - Dice(f_h(u_strong), y; M) ]
    w(t) = N_U / (N_U + N_L) ramp(t),    theta' <- a theta' + (1 - a) theta

h: scales of deep supervision with nnU-Net's weights; V: voxels inside the image; Dice: foreground classes in y. u_weak has
nnU-Net's geometry, u_strong its intensity transforms and, where more images are unlabeled than labeled, the rectangles of
nnUNetTrainerDA5, behind which the network must conclude from the surroundings (with all labels they gave nothing). Partial
labels: L_nnunet is the loss of `nnUNetTrainerPartialLabel`.

mu_c: mean confidence of voxels labeled c, a moving average (of regions: c is the inside or the outside of one). With one threshold
for all labels the background around an organ is taught before the organ, of which f' is not sure yet, and the organ shrinks. At the
end of the run labeled patches are alone, as long a part of the second stage as is their share of the images (`labels_last`).

Where random patches seldom show foreground, a third of the unlabeled ones lie near foreground that f' has found in earlier ones, as
labeled ones do in nnU-Net, and w is 0.3 of that: with all of it 5 Dice were lost. No CutMix of unlabeled patches, which FixMatch's
successors have: organs cut out of their surroundings teach the network to find organs anywhere (docs/studies).

No official code. The parts: teacher of Tarvainen & Valpola, NeurIPS 2017; weak and strong view and confidence of Sohn et al.
(FixMatch), NeurIPS 2020; hidden parts of Hoyer et al. (MIC), CVPR 2023; thresholds by class of Wang et al. (FreeMatch), ICLR 2023;
an end on labels of Ma et al. (AbdomenCT-1K), TPAMI 2022. Start by competence, share of the images as weight, labeled loss at full
weight: this package's (docs/studies).
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.dataloading.views import with_blank_rectangles, without_intensity
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.competence import EARLIEST, F1, LATEST
from nnunet_ssl.engine.ema import decay_of_run
from nnunet_ssl.engine.label_thresholds import LabelThresholds
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Count, Duration, Share, Stored, Weight
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.self_training import self_training_loss
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainers.partial.partial_label import nnUNetTrainerPartialLabel


class nnUNetTrainerSemiSupervised(nnUNetTrainerPartialLabel):
    """nnU-Net that also learns from its own confident labels of unlabeled images; nothing to choose.

    Passes per step (F+B on L+U, F on U; at first and at last nnU-Net's): nnU-Net's until the start; then forward and backward on
    labeled and unlabeled patches in one batch, and one forward pass of the moving average on the unlabeled ones; at the end of the
    run nnU-Net's again.
    """

    networks = ("student", "teacher")
    needs_unlabeled = True
    needs_partial_labels = False

    earliest: Share = EARLIEST  # 0.3 of the run; before, no unlabeled image is used
    latest: Share = LATEST  # 0.4 of the run; then the unlabeled images come in whatever has been learned
    competence: Share = F1  # 0.7: smallest F1 of a class on labeled patches that opens the second stage
    ramp: Duration = 0.1  # of the run, until the unlabeled loss has its full weight
    unlabeled_weight: Weight | None = None  # None: share of the unlabeled images, N_U / (N_U + N_L), ...
    if_rare: Share = 0.3  # ... and this of it where random patches seldom show foreground
    confidence: Share = 0.9  # of the moving average's label of a voxel, which does not count below; of the surest class
    by_class: bool = True  # less for classes of which it is less sure; False: one threshold for all
    memory: Duration = 0.02  # of the run, that of the mean confidence of a class
    blank: Share | None = None  # share of the unlabeled patches with hidden rectangles; None: 0.8, or 0 (above)
    labels_last: Share | None = None  # of the second stage, at its end, on labels alone; None: N_L / (N_U + N_L)
    near_foreground: Share | None = 0.33  # of the unlabeled patches where it is rare, as of nnU-Net's labeled ones
    horizons: Count = 100  # horizons of the moving average that fit into the run
    inference: Stored = "teacher"  # or "student"

    def build_method(self) -> None:
        self.teacher = self.register_teacher(decay_of_run(self.total_steps, self.horizons))
        self.register_gate(self.earliest, self.latest, self.competence)
        if self.by_class:
            heads, horizon = self.label_manager.num_segmentation_heads, self.memory * self.total_steps
            self.thresholds = LabelThresholds(heads, self.activation, self.confidence, horizon, self.is_ddp)
            self.register_module("thresholds", self.thresholds, optimizer=None)

    def unlabeled_views(self, intensity):
        blank = 0.8 * (self.unlabeled_share > 0.5) if self.blank is None else self.blank
        hiding = with_blank_rectangles(intensity, self.configuration_manager.patch_size, blank)
        return {"strong": hiding, "weak": without_intensity(intensity)}

    def weights(self) -> dict[str, float]:
        since = self.gate.since_opening
        if since is None or not self.unlabeled_pool or self._labels_alone(since):
            return {"pseudo": 0.0}
        share = self.unlabeled_share * (self.if_rare if self.foreground_is_rare else 1)
        final = share if self.unlabeled_weight is None else self.unlabeled_weight
        return {"pseudo": ramped_weight(final, since, self.ramp)}

    def _labels_alone(self, since: float) -> bool:
        alone = 1 - self.unlabeled_share if self.labels_last is None else self.labels_last
        return alone > 0 and since >= (1 - alone) * (since + 1 - self.progress)

    def labels_of(self, weak: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of unlabeled patches, and how sure the moving average is of them."""
        return label_and_confidence(probabilities(self.teacher(weak)[0], self.activation), self.activation)

    def sure(self, labels: Tensor, confidence: Tensor, inside: Tensor) -> Tensor:
        """Where labels count."""
        return self.thresholds(labels, confidence, inside) if self.by_class else confidence >= self.confidence

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        labels, confidence = self.labels_of(batch.views["weak"])
        sure = self.sure(labels, confidence, batch.inside)
        self.note_foreground(labels, sure, batch)

        def loss(z: Tensor) -> Tensor:
            return self_training_loss(z, labels, sure, batch.inside, self.activation, all_ranks=self.is_ddp)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
