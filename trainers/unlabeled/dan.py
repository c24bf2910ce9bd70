"""DAN: deep adversarial network.

Zhang, Yang, Chen, Fredericksen, Hughes, Chen, "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated
Images", MICCAI 2017. No official code; the form is that of HiLab-git/SSL4MIS (train_adversarial_network_2D.py, ..._3D.py).

A discriminator D sees the network's probabilities of an image and says whether it is a labeled one, on which the network is good;
the network tries to make its probabilities of unlabeled images pass for those of labeled ones:

    L   = L_sup(x, y) + w(t) mean_u -ln D(p(u))_labeled,    w(t) = adversarial_weight exp(-5 (1 - progress / rampup_fraction)^2)
    L_D = mean over x and u of the cross entropy of D(p) with what the image is

Differs from SSL4MIS:
* D is trained on the probabilities of the same step (official: on those of a second forward pass, after the network's step), so
  that both step at the same time and a pass is saved. Labeled and unlabeled patches need not be equally many.
* D sees p alone (official: the image, too; `discriminator_sees_image = True`). With the image, and few that are labeled, the term
  undid what the labels teach, it seems because D knows these images by heart, whatever their maps are (docs/studies).
* L_sup is nnU-Net's loss with deep supervision, about twice the official 0.5 (CE + Dice), so that the official weight is 0.2. The
  default is a tenth of it.
* The mean over voxels in D, see `networks/map_discriminator.py`; all channels of an image, at any patch size.
* The ramp moves every iteration. D judges the highest resolution. Regions: sigmoid probabilities.

D can also tell patches apart by the foreground in them, which nnU-Net's labeled patches have more often.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.engine.value_ranges import Amount, BelowOne, Count, Duration, Weight
from nnunet_ssl.losses.adversarial_origin import origin_loss, passing_loss
from nnunet_ssl.networks.map_discriminator import MapDiscriminator
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerDAN(nnUNetTrainerSSL):
    """DAN: probabilities of unlabeled patches that a discriminator takes for those of labeled ones.

    Passes per step (F+B on L+U, discriminator): forward and backward on labeled and unlabeled patches in one batch; forward
    and backward of the discriminator for all of them, and once more for the unlabeled ones.
    """

    adversarial_weight: Weight = 0.02  # official: 0.1 of half the labeled loss, which is 0.2 here, see above
    rampup_fraction: Duration = 1.0  # of the run; official: 30000 of 30000 iterations
    discriminator_weight: Weight = 1.0  # as in the official code; Adam makes its size immaterial
    discriminator_lr: Amount = 1e-4  # of Adam, constant; as in the official code
    discriminator_features: Count = 64  # of its first convolution; as in the official code
    discriminator_dropout: BelowOne = 0.5  # as in the official code
    discriminator_sees_image: bool = False  # official: True, see above
    term_patches = {"discriminator": BOTH}

    def build_method(self) -> None:
        self.register_discriminator(self.label_manager.num_segmentation_heads)

    def register_discriminator(self, channels: int) -> None:
        """`self.discriminator` of maps with this number of channels, with a constant learning rate of its own."""
        module = MapDiscriminator(
            channels,
            self.num_input_channels if self.discriminator_sees_image else 0,
            self.configuration_manager.patch_size,
            self.discriminator_features,
            self.discriminator_dropout,
        )

        def adam(parameters):
            fused = self.device.type != "mps"  # faster on a CPU than tensor by tensor
            return torch.optim.Adam(parameters, self.discriminator_lr, betas=(0.9, 0.99), fused=fused), None

        self.discriminator = self.register_module("discriminator", module, optimizer=adam, clip=None)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        scale = torch.cat((batch.labeled_logits["student"][0], logits[0]))
        return self.adversarial_terms(probabilities(scale, self.activation), batch)

    def adversarial_terms(self, maps: Tensor, batch: SSLBatch) -> dict[str, Tensor]:
        """Both losses of the maps `(L + U, channels, *spatial)` of labeled and unlabeled patches."""
        n, module = batch.num_labeled, self.discriminator.module
        judged = self.discriminator(maps.detach(), batch.images)
        with self.frozen(self.discriminator):
            module.eval()  # without dropout, as official
            passed = module(maps[n:], batch.unlabeled)
            module.train()
        return {"adversarial": passing_loss(passed), "discriminator": origin_loss(judged, n)}

    def weights(self) -> dict[str, float]:
        weight = ramped_weight(self.adversarial_weight, self.progress, self.rampup_fraction)
        return {"adversarial": weight, "discriminator": self.discriminator_weight}
