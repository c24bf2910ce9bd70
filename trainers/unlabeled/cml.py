"""CML: cross-view mutual learning.

Wu, Wei, Chen, Ren, He, Pu, "Cross-View Mutual Learning for Semi-Supervised Medical Image Segmentation", ACM Multimedia 2024.
Official code: SongwuJob/CML.

Two networks, n in {1, 2}, must agree in what they predict for mixed patches while the features h_n of their bottlenecks are kept
different. The halves a, b of the labeled patches are mixed with a box (M: 1 outside of it), those of the unlabeled ones with
another; q_n: hard prediction of network n, without nnU-Net's intensities, for an unmixed unlabeled patch; largest components:

    x = x_a M + x_b (1 - M)   with   y_a M + y_b (1 - M)                  for both networks
    u = u_a M + u_b (1 - M)   with   q_2(u_a) M + q_1(u_b) (1 - M)        for network 1; 1 and 2 exchanged for network 2
    L = sum_n L_sup(f_n(x), y) + pseudo_weight sum_n L_sup(f_n(u), q) + discrepancy_weight (D(x) + D(u))
    D = sum_{n != m} 1 + mean_v cos(h_n,v, stopgrad h_m,v)

For `pretrain_fraction` of the run before that, and until every class is found, only labeled patches are mixed and learned from.

Differs from the official code:
* Network 1 is the planned network (stored, validated and predicted with alone; stock nnU-Net loads it); network 2 differs from
  it in its decoder, which interpolates and has a 1x1 convolution instead of transposed convolutions. Official 3D: the same two
  kinds (3x3x3 convolution), predictions are those of the mean logits. In the official 2D network a slip makes both subnets the
  same, so that the published ACDC figures may be those of one network; not followed.
* L_sup is nnU-Net's loss with deep supervision, for pseudo labels too. It is about twice the official 0.5 (CE + Dice), so the
  discrepancy weight is twice the official one; the ratio of labels and pseudo labels stays.
* h is ReLU of what the last encoder stage gives, without dropout; the official networks have ReLU, so that D is at least 2. With
  LeakyReLU alone features can have opposite signs: on phantoms the cosine came to -0.96, which says nothing.
* The stages are one run and schedule, with the last weights, not those best on the test cases. Optimizer and clip per network.
* An odd patch is mixed with one that was used already, a single one with itself. Padding is background in pseudo labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.engine.features import warn_of_small_patches
from nnunet_ssl.engine.value_ranges import Share, TeacherView, Weight
from nnunet_ssl.losses.discrepancy import mutual_discrepancy
from nnunet_ssl.networks.features import FeatureTap, last_encoder_stage
from nnunet_ssl.networks.upsampling import with_interpolation
from nnunet_ssl.patches.mixing import cross_view_labels, mix_halves, outside_one_box
from nnunet_ssl.predictions.hard_labels import hard_labels, start_largest_components
from nnunet_ssl.predictions.targets import as_target
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerCML(nnUNetTrainerSSL):
    """CML: two networks with different features learn each other's and their own labels on mixed patches.

    Passes per step (F+B on mixes, F on U, two networks): for each of two networks: forward and backward of L/2 labeled and
    U/2 unlabeled mixes (in pre-training of the labeled ones only), one forward pass of the unlabeled patches.
    """

    networks = ("student", "second")
    pseudo_weight: Weight = 1.0  # as in the official code for LA; 0.5 for ACDC
    discrepancy_weight: Weight = 0.4  # official code: 0.2 for LA, see above; 0.1 for ACDC
    box_ratio: Share = 2 / 3  # of the patch per axis; as in the official code for LA; 1/2 for ACDC
    pretrain_fraction: Share = 0.25  # of the run; official code: 10000 of 40000 (ACDC), 2000 of 17000 (LA) iterations
    competence: Share = 0.7  # F1 of every class that ends it (0: none, as official), at the latest at 0.4 of the run
    teacher_view: TeacherView = "weak"  # of q, see above; or "student", the patch that is mixed
    largest_component: bool = True  # of each class, as in the official code; False where a class has several parts

    replaces_labeled_loss = True
    term_patches = {"discrepancy": BOTH}

    def build_method(self) -> None:
        warn_of_small_patches(self)
        self.register_gate(self.pretrain_fraction, f1=self.competence)
        network = with_interpolation(self.build_network())
        self.second = self.register_network("second", network, supervised=True, follows_pretrained=False)
        self.bottlenecks = [FeatureTap(last_encoder_stage(m.module), "output") for m in (self.student, self.second)]

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    @property
    def pretraining(self) -> bool:
        return self.gate.since_opening is None

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        mask = outside_one_box(batch.labeled, self.box_ratio)
        images = mix_halves(batch.labeled, mask)
        targets = {"labeled": [self.per_scale(batch.target, lambda t: mix_halves(t, mask))] * 2}
        parts, pending = {"labeled": slice(len(images))}, list
        if not self.pretraining:
            mask = outside_one_box(batch.unlabeled, self.box_ratio)
            parts["pseudo"] = slice(len(images), None)
            pending = self.pseudo_targets(batch, mask)
            images = torch.cat((images, mix_halves(batch.unlabeled, mask)))
        terms, features = {}, []
        for i, (member, bottleneck) in enumerate(zip((self.student, self.second), self.bottlenecks)):
            scales = member(images)
            features.append(torch.relu(bottleneck.take()))
            targets["pseudo"] = targets.get("pseudo") or pending()  # made while the first forward pass ran
            for name, part in parts.items():
                loss = self.supervised_loss([h[part] for h in scales], targets[name][i], batch)
                terms[name if member is self.student else f"{name}_second"] = loss
        return terms | {"discrepancy": sum(mutual_discrepancy(*(f[part] for f in features)) for part in parts.values())}

    def pseudo_targets(self, batch: SSLBatch, mask: Tensor):
        """A function that waits for nnU-Net's targets of the unlabeled mixes, for the first and for the second network."""
        logits = self.logits_of_view(batch, self.teacher_view).values()
        labels = hard_labels(torch.cat(tuple(logits)), self.activation)  # one copy to the host
        filtered = start_largest_components(labels) if self.largest_component else lambda: labels
        inside = mix_halves(batch.inside, mask)
        return lambda: [
            self.per_scale(batch.target, lambda target, label=label: as_target(label, target, inside))
            for label in cross_view_labels(*filtered().chunk(2), mask=mask)
        ]

    @staticmethod
    def per_scale(target: Tensor | list[Tensor], function) -> Tensor | list[Tensor]:
        """`function` of every scale's target, in the form that nnU-Net's target has."""
        return [function(t) for t in target] if isinstance(target, list) else function(target)

    def weights(self) -> dict[str, float]:
        pseudo = 0.0 if self.pretraining else self.pseudo_weight
        return {"pseudo": pseudo, "pseudo_second": pseudo, "discrepancy": self.discrepancy_weight}
