"""Deep co-training.

Qiao, Shen, Zhang, Wang, Yuille, "Deep Co-Training for Semi-Supervised Image Recognition", ECCV 2018, arXiv:1803.05984;
segmentation: Peng, Estrada, Pedersoli, Desrosiers, Pattern Recognition 2020, arXiv:1903.11233. A method of this name in
HiLab-git/SSL4MIS (train_deep_co_training_2D.py) is another one: `views = "rotation"`.

Two networks agree on unlabeled patches u, and are kept different: each resists the adversarial examples g of the other.

    L = sum_i L_sup(f_i(x), y) + agreement_weight r JS(p_1(u), p_2(u))
        + difference_weight r mean over x and u of H(p_1, f_2(g_1)) + H(p_2, f_1(g_2))
    g_i(x) = x + step sign(d CE(f_i(x), argmax f_i(x)) / dx),    r = exp(-5 (1 - progress / rampup_fraction)^2)

H: cross entropy with a soft target, which gets no gradient. "rotation" (SSL4MIS): one network, u rotated by k quarter turns R_k:

    L = L_sup(f(x), y) + rotation_weight r mean (p(R_k u) - R_k p(u))^2,    each side the other's target

The first network is validated and stored.

Differs from the published method: L is summed over voxels' means, with deep supervision in L_sup only; nnU-Net's loss in place
of the cross entropy, about twice as large in value but not in its cross entropy, so that both weights are those of the paper;
examples of labeled patches are made against the network's own decision too, which needs no label of ignored voxels; `step` in
units of z-scored intensities (published: 0.02 of images in [0, 1]). Padding does not count. Regions: Bernoulli distributions.
Differs from SSL4MIS ("rotation"): 2D and 3D; k = 0, the same image again, is not drawn; in the plane of the last two axes, k =
2 only where patch or spacing differ along them; refused where nnU-Net must not mirror along both, since left and right differ;
the weight is Mean Teacher's, for its reason (official: 0.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.engine.features import refuse_without_mirroring_in_plane
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Amount, Duration, Weight
from nnunet_ssl.losses.adversarial_examples import against_own_decision
from nnunet_ssl.losses.consistency import jensen_shannon, mutual_mse
from nnunet_ssl.losses.mixed_pseudo_labels import soft_cross_entropy
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerDeepCoTraining(nnUNetTrainerSSL):
    """Deep co-training: two networks agree on unlabeled patches, and each resists the other's adversarial examples.

    Passes per step (3 F+B on L+U, two networks): for each of two networks in turn: forward and backward on labeled and unlabeled
    patches, on the adversarial examples of the other one, and once more to make its own; a forward pass of the patches without
    gradient for the second. With views = "rotation": forward and backward of one network on L + 2 U.
    """

    networks = ("student", "second")
    views: Literal["adversarial", "rotation"] = "adversarial"  # the paper; or "rotation", SSL4MIS
    agreement_weight: Weight = 10.0  # as in the paper
    difference_weight: Weight = 0.5  # as in the paper
    rotation_weight: Weight = 5.0  # SSL4MIS: 0.1, which is 0.2 beside nnU-Net's loss and has no effect, see above
    step: Amount = 0.02  # of the adversarial examples, in standard deviations of intensities; the paper: of their range
    rampup_fraction: Duration = 1.0  # of the run; SSL4MIS: 30000 of 30000 iterations; the paper: 80 of 600 epochs
    term_patches = dict.fromkeys(("difference", "difference_second"), BOTH)

    def check_supported(self) -> None:
        super().check_supported()
        if self.views == "rotation":
            refuse_without_mirroring_in_plane(self, "views = 'rotation'")

    def build_method(self) -> None:
        if self.views == "adversarial":
            self.second = self.register_network("second", supervised=True)

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        """Of each network: labels and JS, in which the other's prediction is constant, as in half of JS' gradient; then H."""
        if self.views == "rotation":
            yield self.terms(batch)
            return
        for member in self.networks_in_turn(batch, of_others="all"):
            other, suffix = (self.second, "") if member is self.student else (self.student, "_second")
            own, others = (batch.logits[network.name][0] for network in (member, other))
            yield {
                self.labeled_name(member): self.supervised_loss(batch.labeled_logits[member.name], batch.target, batch),
                f"agreement{suffix}": jensen_shannon(own, others, self.activation, batch.inside),
            }
            yield {f"difference{suffix}": self.difference(member, other, batch)}

    def difference(self, member: NetworkMember, other: NetworkMember, batch: SSLBatch) -> Tensor:
        """What a network makes of the other's adversarial examples, against what the other makes of the images."""
        scales = batch.labeled_logits[other.name][0], batch.logits[other.name][0]
        target = probabilities(torch.cat(scales).detach(), self.activation)
        examples = against_own_decision(other.module, batch.images, self.step, self.activation)
        first, *further = member(examples)
        loss = soft_cross_entropy(first, target, self.activation, batch.counted())
        return self.reaching_all(loss, further)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        return {"rotation": self.rotation(logits[0], batch)}

    def rotation(self, logits: Tensor, batch: SSLBatch) -> Tensor:
        square = quarter_turns_fit(self.configuration_manager.spacing, logits.shape[2:])
        turns = int(np.random.randint(1, 4)) if square else 2
        rotated = self.student(turn_and_flip(batch.unlabeled, turns))[0]
        turned = turn_and_flip(probabilities(logits, self.activation), turns)
        return mutual_mse(turned, probabilities(rotated, self.activation), turn_and_flip(batch.inside, turns))

    def weights(self) -> dict[str, float]:
        final = {"agreement": self.agreement_weight, "difference": self.difference_weight}
        final |= {f"{term}_second": weight for term, weight in final.items()}
        final = {"rotation": self.rotation_weight} if self.views == "rotation" else final
        return {name: ramped_weight(weight, self.progress, self.rampup_fraction) for name, weight in final.items()}
