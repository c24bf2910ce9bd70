"""SDCL: students' discrepancy-informed correction learning.

Song & Wang, "SDCL: Students Discrepancy-Informed Correction Learning for Semi-supervised Medical Image Segmentation", MICCAI 2024,
arXiv:2409.16728. Official code: pascalcpp/SDCL.

BCP (`bcp.py`) with two students of different architecture, n in {1, 2}. Where their decisions for a mix differ, each learns its
labels once more, and is made unsure where it is wrong (y: labels and pseudo labels of the mix, w: 1 for labels, `pseudo_weight`
for pseudo labels, D_v: the students differ, E_v: student n is wrong):

    L_n = L_BCP,n + correction_weight sum_v D_v w_v mean_c (p_vc - y_vc)^2 / sum_v D_v
                  + doubt_weight sum_v D_v E_v w_v mean_c -ln p_vc / sum_v D_v E_v

The teacher is the moving average of student 1 alone. Both students are pre-trained as BCP's is.

Differs from the official code, beside what `bcp.py` says:
* Student 1 is the planned network (stored, validated and predicted with alone); student 2 is the U-Net with a residual encoder made
  from the same plans (a plain one where the plans are residual). Official 3D: V-Net and a V-Net with residual blocks, and the mean
  of both predicts; 2D: U-Net and residual U-Net.
* The corrections are means over the mixes of both directions together, which is half of the official sum of two means, so their
  weights are twice the official ones. On the highest resolution. Ignored voxels and padding are in neither.
* Regions: D, E and both terms per region.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Weight
from nnunet_ssl.losses.bidirectional import MixedLabels
from nnunet_ssl.losses.discrepancy_correction import correction_loss, doubt_loss
from nnunet_ssl.losses.mutual_correction import disagreement
from nnunet_ssl.networks.counterpart import build_counterpart
from nnunet_ssl.trainers.unlabeled.bcp import nnUNetTrainerBCP


class nnUNetTrainerSDCL(nnUNetTrainerBCP):
    """SDCL: BCP with two students, which are corrected where they disagree.

    Passes per step (F+B on mixes, F on U, two networks): for each of two networks in turn: forward and backward of as many mixed
    patches as there are labeled (or unlabeled, if more); a forward pass of them without gradient for the second, and one of the
    teacher on the unlabeled patches. None of these two in pre-training.
    """

    networks = ("student", "teacher", "second")
    correction_weight: Weight = 1.0  # official code: 0.5, see above
    doubt_weight: Weight = 0.1  # official code: 0.05, see above

    def build_method(self) -> None:
        super().build_method()
        form = self.num_input_channels, self.label_manager.num_segmentation_heads, self.enable_deep_supervision
        network = build_counterpart(self.configuration_manager, *form)
        self.second = self.register_network("second", network, supervised=True, follows_pretrained=False)

    def pretraining_terms(self, batch: SSLBatch, outside: Tensor) -> Iterator[dict[str, Tensor]]:
        images, target = self.mix_labeled(batch, outside)
        mixes = SSLBatch(images, target, batch.keys, unlabeled=images[:0])
        for member in self.networks_in_turn(mixes, of_others="none"):
            loss = self.supervised_loss(mixes.labeled_logits[member.name], target, batch)
            yield {self.labeled_name(member): loss}

    def mixing_terms(self, batch: SSLBatch, outside: Tensor) -> Iterator[dict[str, Tensor]]:
        images, labels = self.mix(batch, outside)
        mixes, of_scales = SSLBatch(images, batch.target, batch.keys, unlabeled=images[:0]), []
        for member in self.networks_in_turn(mixes, of_others="all"):
            of_scales = of_scales or labels()  # made while the first forward passes ran
            terms = self.student_terms(mixes, of_scales, member.name)
            yield {key if member is self.student else f"{key}_{member.name}": loss for key, loss in terms.items()}

    def student_terms(self, mixes: SSLBatch, of_scales: list[MixedLabels], name: str) -> dict[str, Tensor]:
        """BCP's losses and both corrections of one student."""
        mixed, weights = of_scales[0], of_scales[0].weights(self.pseudo_weight)
        first, second = (mixes.labeled_logits[member.name][0] for member in self.supervised_networks())
        differ = disagreement(first, second, self.activation, mixed.labeled | mixed.pseudo)
        logits, losses = mixes.labeled_logits[name][0], self.mix_losses(mixes.labeled_logits[name], of_scales)
        losses["correction"] = correction_loss(logits, mixed.labels, differ, weights, self.activation)
        losses["doubt"] = doubt_loss(logits, mixed.labels, differ, weights, self.activation)
        return losses

    def weights(self) -> dict[str, float]:
        final = {"pseudo": self.pseudo_weight, "correction": self.correction_weight, "doubt": self.doubt_weight}
        final |= {f"{name}_second": weight for name, weight in final.items()}
        return dict.fromkeys(final, 0.0) if self.pretraining else final
