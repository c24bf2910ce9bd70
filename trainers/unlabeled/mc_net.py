"""MC-Net and MC-Net+: mutual consistency.

Wu, Xu, Ge, Cai, Zhang, "Semi-supervised Left Atrium Segmentation with Mutual Consistency Training", MICCAI 2021,
arXiv:2103.02911 (two decoders); Wu, Ge, Zhang, Xu, Zhang, Xia, Cai, "Mutual Consistency Learning for Semi-supervised Medical
Image Segmentation", Medical Image Analysis 2022, arXiv:2109.09960 (MC-Net+, three). Official code: ycwu1997/MC-Net.

Decoders on one encoder differ in how they upsample: transposed convolutions (nnU-Net's own), linear interpolation, nearest
neighbor. Each is asked to predict, on all patches, what the others would if they were sure:

    L = sum_i L_sup(f_i(x), y) + w(t) sum_{i != j} mean_{n,c,v} (p_i - sharp(p_j))^2
    sharp(p) = p^(1/T) / (p^(1/T) + (1-p)^(1/T)),    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Only the encoder and nnU-Net's own decoder are validated, stored and predicted with, as in the official code.

Differs from the official code: L_sup is nnU-Net's loss for every decoder (official: Dice alone; in 2D without its factor 2, so
that a perfect prediction costs 0.5); all decoders have deep supervision, the consistency is on the highest resolution;
upsampling is a 1x1 convolution and interpolation by the stride of the plans (official: a 3x3 convolution in 3D); nnU-Net's
learning rate schedule (official: constant); ignored voxels are in the consistency as unlabeled ones are, padding is not; the
ramp moves every iteration. The gradient also goes through sharp(p_j), as in the official code; the papers say it does not
(`detach = True`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Duration, Positive, Weight
from nnunet_ssl.losses.mutual_consistency import mutual_consistency
from nnunet_ssl.networks.auxiliary_decoder import AuxiliaryDecoder
from nnunet_ssl.networks.features import FeatureTap, encoder_of
from nnunet_ssl.networks.upsampling import with_interpolation
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerMCNet(nnUNetTrainerSSL):
    """MC-Net+: decoders with different upsampling on one encoder, each follows the sharpened predictions of the others.

    Passes per step (F+B on L+U with three decoders): forward and backward on labeled and unlabeled patches in one batch, with
    two further decoders; with one, MC-Net's, with `decoders = 2`.
    """

    consistency_weight: Weight = 1.0  # as in the official code for LA and Pancreas-CT; 0.1 for ACDC
    rampup_fraction: Duration = 0.4  # of the run; official: 6000 of 15000 iterations (LA), all for ACDC
    auxiliary_weight: Weight = 1.0  # of the further decoders' labeled losses; as in the official code
    temperature: Positive = 0.1  # of the sharpening; as in the official code
    decoders: Literal[2, 3] = 3  # MC-Net+; 2: MC-Net
    detach: bool = False  # sharpened predictions get no gradient; the papers: True

    def build_method(self) -> None:
        self.auxiliaries = {}
        for name in ("linear", "nearest")[: self.decoders - 1]:
            decoder = AuxiliaryDecoder(with_interpolation(self.build_network(), name))
            self.auxiliaries[name] = self.register_module(f"decoder_{name}", decoder, optimizer="shared")
        self.features = FeatureTap(encoder_of(self.student.module), "output")

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        features, terms, lower = self.features.take(), {}, []
        predictions = [torch.cat((batch.labeled_logits["student"][0], logits[0]))]
        for name, decoder in self.auxiliaries.items():
            scales = as_scales(decoder(features))
            predictions.append(scales[0])
            lower += scales[1:]
            terms[f"labeled_{name}"] = self.supervised_loss(batch.labeled_part(scales), batch.target, batch)
        consistency = mutual_consistency(
            predictions, self.temperature, self.activation, batch.counted(), detached=self.detach
        )
        return terms | {"consistency": self.reaching_all(consistency, lower)}

    def weights(self) -> dict[str, float]:
        labeled = {f"labeled_{name}": self.auxiliary_weight for name in self.auxiliaries}
        return labeled | {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}
