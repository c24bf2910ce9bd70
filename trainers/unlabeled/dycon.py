"""DyCON: dynamic uncertainty-aware consistency and contrastive learning.

Assefa, Naseer, Ganapathi, Ali, Seghier & Werghi, "DyCON: Dynamic Uncertainty-aware Consistency and Contrastive Learning for
Semi-supervised Medical Image Segmentation", CVPR 2025, arXiv:2504.04566. Official code: KU-CVML/DyCON (train_DyCON_BraTS19.py).

Mean Teacher with two more losses, on labeled and unlabeled patches x (p: student of x, q: teacher of x + noise):
    L      = L_sup + r(t) [uncertainty_weight L_UnCL + contrast_weight (L_FeCL + L_neg)] + w(t) mean (p - q)^2 on unlabeled patches
    L_UnCL = mean_v [ |p - q|^2 / (e^{b H(p)} + e^{b H(q)}) + b (H(p) + H(q)) ],    b = beta_start (beta_end / beta_start)^progress
    L_FeCL = focal contrast of the cells of a feature map: cells of one label are drawn together
    L_neg  = mean -ln(1 - S) over cells of the student and of the teacher with different labels and similarity S > h(t)
    w(t)   = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2),    r(t): the same ramp to 1 over further_rampup

**The released code takes the labels of the contrast from the true labels of the unlabeled images** (its issues 1 and 9): its
published numbers are not semi-supervised. Here unlabeled patches have the teacher's labels, labeled ones (official: none) theirs.

The embedding: the encoder's first stage with stride `cell_stride` (official: the bottleneck, doubled in size), then a projection
head of two 1x1 convolutions, with a moving average for the teacher. Heads are in checkpoints, not in the network that predicts.

Differs from the official code: any number of classes (b in units of ln C / ln 2 nats); binary entropies of regions; at most
`max_cells` cells, drawn in each step; instance norm in the head (official: batch norm), no dropout; padding and ignored voxels do
not count; softmax once, and the row's maximum in the contrast (official, `as_released = True`: twice, and the column's); nnU-Net's
clip and rates; 25 times the consistency's weight. The teacher is stored (official: the student); patches as Mean Teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Cosine, Count, Duration, FocalExponent, Positive, Share, Weight
from nnunet_ssl.losses.cell_contrast import cell_labels, choose_cells, focal_contrast, hard_negatives, unit_embeddings
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.losses.region import split_ignored
from nnunet_ssl.losses.selective import uncertainty_weighted_mse
from nnunet_ssl.networks.features import FeatureTap, ProjectionHead, encoder_stage, segmentation_layer
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import max_entropy, ramped_threshold
from nnunet_ssl.ramps import geometric_ramp, ramp_progress, ramped_weight
from nnunet_ssl.trainers.unlabeled.mean_teacher import nnUNetTrainerMeanTeacher


class nnUNetTrainerDyCON(nnUNetTrainerMeanTeacher):
    """DyCON: consistency that counts less where predictions are uncertain, and contrast of features by (pseudo) label.

    Passes per step (F+B on L+U, F on L+U): Mean Teacher's, the teacher's on all patches; similarities of up to `max_cells` cells.
    """

    consistency_weight: Weight = 2.5  # official code: 0.1, a gradient of 0.5 % of the labeled loss's (docs/studies)
    rampup_fraction: Duration = 1.5  # of the run, so w ends at 0.57 of its limit; official: 30000 of 20000 iterations
    further_rampup: Duration = 0.4  # of the run, of the next two weights; official: 0, full weight from the first step
    uncertainty_weight: Weight = 0.5  # as in the official code
    contrast_weight: Weight = 0.5  # as in the official code
    beta_start: Positive = 5.0  # per nat of entropy, for two classes; as in the official code
    beta_end: Positive = 0.5  # as in the official code
    temperature: Positive = 0.6  # of the contrast; as in the official code
    gamma: FocalExponent = 2.0  # its focal exponent; as in the official code
    negative_start: Cosine = 0.3  # h, cosine similarity; as in the official code
    negative_end: Cosine = 0.5  # as in the official code
    negative_fraction: Share = 0.45  # of the run; official: 1500 of 3334 epochs (BraTS)
    cell_stride: Count = 8  # voxels of the image per cell; as in the official code
    max_cells: Count = 1728  # per patch; official: all, 12^3
    hidden_features: Count = 512  # of the projection head; as in the official code
    embedding_features: Count = 256  # as in the official code
    as_released: bool = False  # softmax twice in the consistency and the column's maximum in the contrast, see above
    term_patches = dict.fromkeys(("uncertainty", "contrast", "negatives"), BOTH)

    def build_method(self) -> None:
        self.teacher = self.register_teacher(self.ema_decay)
        stage, self.stride, features = encoder_stage(self.student.module, self.cell_stride)
        layer = segmentation_layer(self.student.module)
        head = ProjectionHead(layer, features, self.hidden_features, self.embedding_features)
        self.head = self.register_module("head", head)
        self.teacher_head = self.register_teacher(self.ema_decay, "teacher_head", self.head)
        self.features = FeatureTap(stage, "output")
        teacher_stage, *_ = encoder_stage(self.teacher.module, self.cell_stride)
        self.teacher_features = FeatureTap(teacher_stage, "output", in_evaluation=True)

    def labeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def labels(self, batch: SSLBatch, teacher_logits: Tensor) -> Tensor:
        """Labels of the cells, `(L + U, N)`: of the annotation, and of the teacher's prediction of unlabeled patches."""
        manager, channels = self.label_manager, teacher_logits.shape[1]
        target, annotated = split_ignored(as_scales(batch.target)[0], manager.ignore_label, manager.has_regions)
        parts = (target, annotated), (hard_labels(teacher_logits, self.activation), batch.inside)
        return torch.cat([cell_labels(t, channels, self.stride, self.activation, mask) for t, mask in parts])

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        n, activation = batch.num_labeled, self.activation
        seen = torch.cat([views[self.teacher_view] for views in (batch.labeled_views, batch.views)])
        scales, teacher = self.student(batch.images), self.teacher(add_clipped_noise(seen, self.noise_std))[0]
        student, counted = scales[0], batch.counted()
        beta = geometric_ramp(self.progress, self.beta_start, self.beta_end)
        beta *= max_entropy(2) / max_entropy(student.shape[1], activation)
        embeddings = unit_embeddings(self.head(self.features.take()))
        teacher_embeddings = unit_embeddings(self.teacher_head(self.teacher_features.take())[0])
        cells = choose_cells(embeddings.shape[1], self.max_cells, seen.device)
        embeddings, labels = embeddings[:, cells], self.labels(batch, teacher[n:])[:, cells]
        ramped = ramp_progress(self.progress, self.negative_fraction)
        threshold = ramped_threshold(ramped, self.negative_start, self.negative_end)
        p, q = (probabilities(z, activation) if self.as_released else z for z in (student[n:], teacher[n:]))
        return {
            "labeled": self.supervised_loss(batch.labeled_part(scales), batch.target, batch),
            "consistency": softmax_mse(p, q, activation, mask=batch.inside),
            "uncertainty": uncertainty_weighted_mse(student, teacher, beta, activation, counted),
            "contrast": focal_contrast(embeddings, labels, self.temperature, self.gamma, column_shift=self.as_released),
            "negatives": hard_negatives(embeddings, teacher_embeddings[:, cells], labels, threshold),
        }

    def weights(self) -> dict[str, float]:
        consistency = ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)
        ramp = ramped_weight(1.0, self.progress, self.further_rampup)
        contrasts = dict.fromkeys(("contrast", "negatives"), ramp * self.contrast_weight)
        return {"consistency": consistency, "uncertainty": ramp * self.uncertainty_weight, **contrasts}
