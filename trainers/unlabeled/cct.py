"""CCT: cross-consistency training.

Ouali, Hudelot, Tami, "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020, arXiv:2003.09005,
yassouali/CCT. In a U-Net: HiLab-git/SSL4MIS (train_cross_consistency_training_2D.py).

Three further decoders get perturbed features of the encoder (all stages), and are asked to predict what nnU-Net's own decoder does:

    L = L_sup(x, y) + w(t) 1/3 sum_k mean_{n,c,v} (p_k(u) - stop p(u))^2
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Perturbations: noise in proportion to the features; the strongest positions set to 0; dropout of single elements. Only the
encoder and nnU-Net's decoder are validated, stored and predicted with; the encoder learns from all.

What is published differs between the two codes; the default is the paper's step with SSL4MIS' decoders:

                                        yassouali/CCT          SSL4MIS
    decoders                            30, of seven kinds     3
    main prediction                     a target               `detach = False`: gets a gradient, too
    further decoders on labels          no                     `auxiliary_on_labeled = True`
    w                                   30, ramp of 10 %       0.1, ramp of 100 %

Differs from both: the weight, that of `nnUNetTrainerMeanTeacher`, which has the same squared difference: SSL4MIS' is 0.2 beside
nnU-Net's loss, which trains nothing, and 30 was chosen for a mean over 21 classes beside a cross entropy alone; L_sup is
nnU-Net's loss with deep supervision; the further decoders have their highest resolution only; 3D, too; features without a
positive mean are not dropped (nnU-Net's LeakyReLU gives negative ones; official: all would be); padding does not count; the
ramp moves every iteration. Regions: sigmoid probabilities.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.engine.value_ranges import Amount, BelowOne, Duration, Ratio, Rising, Weight
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.networks.auxiliary_decoder import AuxiliaryDecoder
from nnunet_ssl.networks.feature_perturbations import ElementDropout, FeatureDropout, FeatureNoise
from nnunet_ssl.networks.features import FeatureTap, encoder_of
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerCCT(nnUNetTrainerSSL):
    """CCT: three decoders of perturbed features predict what nnU-Net's decoder predicts from clean ones.

    Passes per step (F+B on L+U, three decoders on U): forward and backward on labeled and unlabeled patches in one batch, and
    of three further decoders on the unlabeled ones.
    """

    consistency_weight: Weight = 5.0  # yassouali/CCT: 30; SSL4MIS: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; as in SSL4MIS; yassouali/CCT: 0.1
    detach: bool = True  # the main prediction is a target; SSL4MIS: False
    auxiliary_on_labeled: bool = False  # the further decoders learn labels as well; SSL4MIS: True
    noise: Amount = 0.3  # largest share of a feature that is added or taken away; as in both codes
    # of the strongest position; those above are dropped; as in both codes
    strongest: Annotated[tuple[Ratio, Ratio], Rising()] = (0.7, 0.9)
    dropout: BelowOne = 0.3  # probability that an element is dropped; SSL4MIS

    def build_method(self) -> None:
        perturbations = FeatureNoise(self.noise), ElementDropout(self.dropout), FeatureDropout(self.strongest)
        self.auxiliaries = []
        for name, perturb in zip(("noise", "dropout", "strongest"), perturbations):
            decoder = AuxiliaryDecoder(self.build_network(), perturb=perturb, single_scale=True)
            self.auxiliaries.append(self.register_module(f"decoder_{name}", decoder, optimizer="shared"))
        self.features = FeatureTap(encoder_of(self.student.module), "output")

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        features, first = self.features.take(), 0 if self.auxiliary_on_labeled else batch.num_labeled
        outputs = [as_scales(decoder([f[first:] for f in features]))[0] for decoder in self.auxiliaries]
        main = logits[0].detach() if self.detach else logits[0]
        terms = {}
        if self.auxiliary_on_labeled:
            target, n = as_scales(batch.target)[0], batch.num_labeled
            plain = self.loss.loss if self.enable_deep_supervision else self.loss
            terms["labeled_auxiliary"] = torch.stack([plain(z[:n], target) for z in outputs]).mean()
            outputs = [z[n:] for z in outputs]
        errors = [softmax_mse(z, main, self.activation, mask=batch.inside) for z in outputs]
        return terms | {"consistency": torch.stack(errors).mean()}

    def weights(self) -> dict[str, float]:
        labeled = {"labeled_auxiliary": 1.0} if self.auxiliary_on_labeled else {}
        return labeled | {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}
