"""DMPLS and DMSPS: two decoders learn from a random mixture of their predictions.

DMPLS: Luo, Hu, Liao, Zhai, Song, Wang, Zhang, "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and
Dynamically Mixed Pseudo Labels Supervision", MICCAI 2022, LNCS 13438, pp. 528-538, arXiv:2203.02106. Official code:
HiLab-git/WSL4MIS. DMSPS: Han, Luo et al., "DMSPS: Dynamically mixed soft pseudo-label supervision for scribble-supervised medical
image segmentation", Medical Image Analysis 2024. Official code: HiLab-git/PyMIC.

A second decoder k = 2 beside nnU-Net's (k = 1) gets the same encoder's features, half of their channels dropped at every level:

    L = sum_k L_sup(z_k, y) + pseudo_weight sum_k U(z_k, s),    s = beta p_1 + (1 - beta) p_2,  beta ~ U(0, 1) in every step
    DMPLS: U = Dice loss of argmax s, over the batch, squares in the denominator, background included
    DMSPS: U = cross entropy with s itself

s carries no gradient and covers all voxels, annotated ones too. Prediction is nnU-Net's network alone.

Differs from the official code: L_sup is nnU-Net's cross entropy + Dice on annotated voxels (official: cross entropy alone). The
official loss has 1/2 for each decoder, in both parts; without it pseudo_weight is as published and nnU-Net's loss on the main
decoder stays whole. U at all resolutions of deep supervision with nnU-Net's weights: s of the highest resolution, resized. Padding
is not in U. Regions: p sigmoid, a pseudo label per region. DMSPS: PyMIC applies the softmax twice, which is not followed; no second
stage (scribbles expanded by the trained network); the ramp moves every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Duration, Share, Weight
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.mixed_pseudo_labels import hard_mixture, mixed_probabilities, pseudo_dice, soft_cross_entropy
from nnunet_ssl.networks.auxiliary_decoder import AuxiliaryDecoder
from nnunet_ssl.networks.features import FeatureTap, encoder_of
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerScribbleDMPLS(nnUNetTrainerWeak):
    """DMPLS: two decoders on one encoder learn a hard random mixture of their predictions.

    Passes per step (F+B with a second decoder): nnU-Net's forward and backward with a second decoder, 1.6 times its feature
    maps.
    """

    pseudo_weight: Weight = 0.5  # of each decoder, relative to its labeled loss; as in the official code
    auxiliary_weight: Weight = 1.0  # of the second decoder's labeled loss; as in the official code
    dropout: Share = 0.5  # of the channels that the second decoder gets; as in the official code

    def build_method(self) -> None:
        decoder = AuxiliaryDecoder(self.build_network(), self.dropout)
        self.auxiliary = self.register_module("auxiliary", decoder, optimizer="shared")
        self.features = FeatureTap(encoder_of(self.student.module), "output")

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        auxiliary = as_scales(self.auxiliary(self.features.take()))
        beta = torch.rand((), device=logits[0].device)
        mixed = mixed_probabilities(logits[0], auxiliary[0], beta, self.activation)
        return {
            "labeled_auxiliary": self.supervised_loss(auxiliary, batch.target, batch),
            "pseudo": self.pseudo_loss(logits, mixed, batch.labeled_inside),
            "pseudo_auxiliary": self.pseudo_loss(auxiliary, mixed, batch.labeled_inside),
        }

    def pseudo_loss(self, scales: list[Tensor], mixed: Tensor, inside: Tensor) -> Tensor:
        """U of one decoder; `mixed`: s, `(L, C, *spatial)`."""
        label = hard_mixture(mixed, self.activation)
        return over_scales(
            lambda z: pseudo_dice(z, label, self.activation, inside, all_ranks=self.is_ddp), scales, self.scale_weights
        )

    def weights(self) -> dict[str, float]:
        pseudo = self.pseudo_weight * self.ramp
        return {"labeled_auxiliary": self.auxiliary_weight, "pseudo": pseudo, "pseudo_auxiliary": pseudo}

    @property
    def ramp(self) -> float:
        return 1.0


class nnUNetTrainerScribbleDMSPS(nnUNetTrainerScribbleDMPLS):
    """DMSPS: two decoders on one encoder learn a soft random mixture of their predictions.

    Passes per step (F+B with a second decoder): nnU-Net's forward and backward with a second decoder.
    """

    pseudo_weight: Weight = 8.0  # of each decoder, relative to its labeled loss; as in the official code
    rampup_fraction: Duration = 1.0  # of the run; as in the official code

    def pseudo_loss(self, scales: list[Tensor], mixed: Tensor, inside: Tensor) -> Tensor:
        return over_scales(lambda z: soft_cross_entropy(z, mixed, self.activation, inside), scales, self.scale_weights)

    @property
    def ramp(self) -> float:
        return ramped_weight(1.0, self.progress, self.rampup_fraction)
