"""R-Drop: regularized dropout.

Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu, "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, arXiv:2106.14448,
dropreg/R-Drop. Segmentation: HiLab-git/SSL4MIS (train_regularized_dropout_2D.py, ..._3D.py), two networks.

Two passes of one network with different dropout are asked to agree on unlabeled patches:

    L = L_sup(x, y) + w(t) (KL(p || q) + KL(q || p)) / 2,    mean over samples, classes and voxels
    w(t) = agreement_weight exp(-5 (1 - progress / rampup_fraction)^2)

`two_networks = True` is the form of SSL4MIS, mutual learning: p and q are those of two networks with weights and optimizers of
their own (the first one is validated and stored).

Dropout: nnU-Net's networks have none. Forward hooks drop whole channels after the bottleneck and before the last segmentation
layer, in the passes of the unlabeled patches; the state dict keeps its keys and validation has no dropout
(`nnunet_ssl.networks.dropout`).

Differs from the official codes: the softmax is over the classes. SSL4MIS takes it over the last axis, which is the width of
the image: a snippet for tokens, taken over. The mean goes over the classes as in SSL4MIS (the paper: a sum over tokens, no
ramp, and the labeled samples; alpha 0.3 to 5). L_sup is nnU-Net's loss with deep supervision, about twice the official 0.5
(CE + Dice), so that the official weight is 8, at which the term's gradient at the segmentation layers was 20 times the
labeled loss's (ACDC in 2D, 3 labeled patients, 15 steps of a trained nnU-Net); labeled patches pass once and without dropout,
so that their step is nnU-Net's; highest resolution only; padding does not count; the ramp moves every iteration instead of
every 150. Regions: Bernoulli divergences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import BelowOne, Duration, Weight
from nnunet_ssl.losses.consistency import symmetric_kl
from nnunet_ssl.networks.dropout import HookedDropout
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerRDrop(nnUNetTrainerSSL):
    """R-Drop: two passes with different dropout, or two networks, agree on unlabeled patches.

    Passes per step (F+B on L+2U): forward and backward on labeled patches, and on unlabeled ones twice; with `two_networks`
    once for each network.
    """

    agreement_weight: Weight = 0.5  # SSL4MIS: 4, see above
    rampup_fraction: Duration = 1.0  # of the run; SSL4MIS: 30000 of 30000 iterations
    dropout: BelowOne = 0.3  # probability that a channel is dropped; the paper: the network's own (0.1 to 0.3)
    two_networks: bool = False  # SSL4MIS: True, where `dropout` may be 0

    def build_method(self) -> None:
        if self.dropout == 0 and not self.two_networks:
            raise ValueError(
                f"{type(self).__name__}.dropout is 0: both passes of one network would be the same, and nothing is learned. "
                "Allowed: more than 0 and less than 1, or two_networks = True."
            )
        if self.two_networks:
            self.register_network("second", supervised=True)
        self.dropouts = [HookedDropout(member.module, self.dropout) for member in self.supervised_networks()]

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        terms, passes = {}, []
        images = batch.unlabeled if self.two_networks else torch.cat((batch.unlabeled, batch.unlabeled))
        for member, dropout in zip(self.supervised_networks(), self.dropouts, strict=True):
            terms[self.labeled_name(member)] = self.supervised_loss(member(batch.labeled), batch.target, batch)
            with dropout.on():
                passes += member(images)[0].split(batch.num_unlabeled)
        first, second = passes
        return terms | {"agreement": symmetric_kl(first, second, self.activation, batch.inside)}

    def weights(self) -> dict[str, float]:
        return {"agreement": ramped_weight(self.agreement_weight, self.progress, self.rampup_fraction)}
