"""UniMatch: a weak view labels two strong ones and its own perturbed features.

Yang, Qi, Feng, Zhang, Shi, "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation", CVPR 2023,
arXiv:2208.09910. Official code: LiheYoung/UniMatch (for ACDC: more-scenarios/medical), `earliest = competence = ramp = 0.0`.

What the network is sure of on a weak view u of an unlabeled patch it has to predict for strong views v_i of it, and from the
features of u with half of their channels dropped at every stage of the encoder:

    y = argmax f(u),   M = [max p(u) >= confidence]
    L = L_sup(x, y_x) + r strong_weight mean_i U(f(v_i), y_i; M_i) + r feature_weight U(f(drop(u)), y; M)
    U = sum_h a_h [ sum_v M ce_v / V + 1 - Dice(M) ],    r: sigmoid ramp over `ramp` of the run, when every class is found

v_i: nnU-Net's intensity transforms, drawn for each view, and in half of the cases a box of another patch with its label and
confidence (CutMix). h: scales of deep supervision. `complementary_dropout = True` with `feature_weight = 0.0` is UniMatch V2's
perturbation (Yang, Zhao, Zhao, TPAMI 2025, arXiv:2410.10777): each channel is dropped in one strong view and doubled in the other.

Differs from the official code:
* U is cross entropy and Dice of the foreground classes that occur (`form`; official: "dice" of all classes for ACDC, which pushes
  unsure ones down, "cross_entropy" elsewhere), at all scales; twice as large as Dice alone, which the official weights are for.
* A patch's partner is the next one of the batch (official: of a second loader): its label costs nothing. No CutMix where a patch
  shows less than `smallest_share` of the median image, because it tears structures apart (docs/studies). V2's labels are the
  network's own (official: a moving average's). Padding does not count. Regions: one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.dataloading.views import without_intensity
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.competence import EARLIEST, F1
from nnunet_ssl.engine.features import large_enough_to_mix
from nnunet_ssl.engine.value_ranges import BelowOne, Count, Duration, Ratio, Share, Weight
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.self_training import Form, self_training_loss
from nnunet_ssl.networks.dropout import ComplementaryDropout
from nnunet_ssl.networks.second_decoding import DroppedChannels
from nnunet_ssl.patches.mixing import copy_paste, draw_occasional_masks
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerUniMatch(nnUNetTrainerSSL):
    """UniMatch: a weak view labels two strong ones with CutMix, and its own perturbed features.

    Passes per step (F+B on L+3U, a decoder on U): forward and backward on labeled and weak patches, these decoded twice; then
    on two strong views; two graphs, one after the other, so that memory holds the larger one.
    """

    strong_weight: Weight = 0.5  # of the mean over strong views; official: 1 for Dice alone, see above
    feature_weight: Weight = 0.5  # of perturbed features; official: the same. 0: none
    strong_views: Count = 2  # as in the official code
    form: Form = "both"  # of the loss; official: "dice" (medical), "cross_entropy" (natural images)
    confidence: Share = 0.9  # of the label of a voxel, which does not count below; official: 0.95
    earliest: Share = EARLIEST  # 0.3 of the run, before which no unlabeled image is used; official: 0
    competence: Share = F1  # 0.7: of every class on labeled patches, or 0.4 of the run, starts it; official: 0
    ramp: Duration = 0.1  # of the run; official: 0
    feature_dropout: BelowOne = 0.5  # probability that a channel is dropped; as in the official code
    complementary_dropout: bool = False  # of the two strong views; UniMatch V2: True
    cutmix: Share = 0.5  # probability of a box, of 2 to 40 % of the patch; as in the official code
    smallest_share: Ratio = 0.8  # of the median image along every axis that a patch must show for CutMix; official: any

    def build_method(self) -> None:
        if self.complementary_dropout and self.strong_views != 2:
            raise ValueError(f"complementary_dropout needs strong_views = 2, got {self.strong_views}")
        self.register_gate(self.earliest, f1=self.competence)
        self.mixes = self.cutmix > 0 and large_enough_to_mix(self, self.smallest_share)
        if self.mixes:
            refuse_single_patches(self)
        if self.feature_weight:
            self.decode_twice = self.register_second_decoding(DroppedChannels(self.feature_dropout))
        self.complementary = ComplementaryDropout(self.student.module).on if self.complementary_dropout else nullcontext

    def unlabeled_views(self, intensity):
        strong = {f"strong_{i}": intensity for i in range(self.strong_views)}
        return strong | {"weak": without_intensity(intensity)}

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        weak, perturbed = batch.views["weak"], None
        if self.feature_weight:
            scales, perturbed = self.decode_twice(torch.cat((batch.labeled, weak)), first=batch.num_labeled)
            logits = scales[0][batch.num_labeled :]
        else:
            scales, logits = self.student(batch.labeled), self.without_gradient(self.student, weak)[0]
        label, confidence = label_and_confidence(probabilities(logits, self.activation), self.activation)
        taught = label, confidence >= self.confidence, batch.inside
        terms = {"labeled": self.supervised_loss(batch.labeled_part(scales), batch.target, batch)}
        yield terms | ({} if perturbed is None else {"features": self.taught_loss(perturbed, *taught)})
        mixed = [self.mix((batch.views[f"strong_{i}"], *taught)) for i in range(self.strong_views)]
        with self.complementary():
            scales = self.student(torch.cat([view for view, *_ in mixed]))
        views = zip(*(z.chunk(self.strong_views) for z in scales), strict=True)
        losses = [self.taught_loss(own, *labels) for own, (_, *labels) in zip(views, mixed, strict=True)]
        yield {"strong": torch.stack(losses).mean()}

    def mix(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A view, and what it is taught, each `(U, any, *spatial)`, with boxes of the next patch."""
        if not self.mixes:
            return maps
        count, *shape = maps[0][:, 0].shape
        masks = draw_occasional_masks(count, shape, self.cutmix, device=maps[0].device)
        return tuple(copy_paste(x, x.roll(1, 0), masks) for x in maps)

    def taught_loss(self, scales: Sequence[Tensor], label: Tensor, sure: Tensor, inside: Tensor) -> Tensor:
        def loss(z: Tensor) -> Tensor:
            return self_training_loss(z, label, sure, inside, self.activation, self.form, self.is_ddp)

        return over_scales(loss, scales, self.scale_weights)

    def weights(self) -> dict[str, float]:
        since = self.gate.since_opening
        ramp = 0.0 if since is None else ramped_weight(1.0, since, self.ramp)
        return {"strong": ramp * self.strong_weight, "features": ramp * self.feature_weight}
