"""MAAG: scribbles say where, unpaired masks of other patients say what a segmentation looks like.

Valvano, Leo, Tsaftaris, "Learning to Segment from Scribbles using Multi-scale Adversarial Attention Gates", IEEE TMI 2021,
arXiv:2007.01152. Official code: gvalvano/multiscale-adversarial-attention-gates.

    L_G = L_sup + adversarial_weight 0.5 mean (D(fake) - 1)^2
    L_D = 0.5 mean (D(real) - 1)^2 + 0.5 mean (D(fake) + 1)^2

D sees a mask at up to four resolutions. fake: the foreground probabilities of the student's scales, real: a patch of a dense mask
of a patient that is not in this fold (`masksUn` of the raw data set, docs/data_format.md), resized. With `scales = 1` D sees the
prediction of the highest resolution alone: the discriminator of ACCL (P. Zhang et al., arXiv:2005.00328; its code is not public).

The masks are dense labels: this is mixed supervision, and has to be called so beside methods that see scribbles alone.

Differs from the official code:
* No attention gates: nnU-Net's network stays as it is, so that stock nnU-Net can load it. The scales of deep supervision are what
  the gates' attention maps are there: predictions at lower resolutions that D judges. Where there is no such scale, or nnU-Net's
  loss leaves it out (the lowest), the prediction is resized, as the masks are.
* L_sup is nnU-Net's loss on annotated voxels with weight 1 (official: cross entropy weighted by inverse class frequencies and
  rescaled in each step to the size of the adversarial loss; nnU-Net's loss may be 0 or negative).
* The predictions that D judges are those of the patches with scribbles (official: also of images without any); the official
  extra term of these patches is L_D, applied to all weights, where L_G must be meant.
* D and the student step at the same time (official: one after the other). D: Adam, its learning rate falls as nnU-Net's.
* Resolutions fall as nnU-Net's do, in 2D and 3D. Regions: sigmoid probabilities, all regions.
"""

from __future__ import annotations

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_ssl.dataloading.views import label_transforms
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Amount, Count, Share, Weight
from nnunet_ssl.losses.adversarial_masks import (
    flip_signs,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)
from nnunet_ssl.losses.region import one_hot, split_ignored
from nnunet_ssl.networks.mask_discriminator import MaskDiscriminator, mask_levels
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.preprocessing.unpaired_masks import MaskDataset, unpaired_masks
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerMAAG(nnUNetTrainerWeak):
    """MAAG: predictions at all scales that look like masks of other patients; needs such masks in `masksUn`.

    Passes per step (F+B on L, discriminator): forward and backward of the patches; forward and backward of the discriminator
    for masks and predictions, and once more for the predictions.
    """

    adversarial_weight: Weight = 0.1  # as in the official code for patches with scribbles; 0.2 for images without
    discriminator_weight: Weight = 0.2  # as in the official code; Adam makes its size immaterial
    discriminator_lr: Amount = 1e-4  # as in the official code
    scales: Count = 4  # resolutions at which predictions are judged; as in the official code. 1: the highest one
    discriminator_features: Count = 32  # of its first convolution; as in the official code
    instance_noise: Amount = 0.2  # standard deviation, on the masks that D sees; as in the official code
    label_noise: Share = 0.1  # probability that D's outputs of a batch change sign; as in the official code

    def build_method(self) -> None:
        discriminator = MaskDiscriminator(
            self.num_objects,
            self.configuration_manager.patch_size,
            self.configuration_manager.pool_op_kernel_sizes[1:-1],
            self.discriminator_features,
            noise=self.instance_noise,
        )
        self.discriminator = self.register_module(
            "discriminator",
            discriminator,
            optimizer=lambda parameters: torch.optim.Adam(parameters, self.discriminator_lr),
            clip=None,
        )

    def further_streams(self, labeled: nnUNetDataLoader) -> dict[str, nnUNetDataLoader]:
        base, own_cases = self.preprocessed_dataset_folder_base, (self.cases.train, self.cases.validation)
        folder, cases, notes = unpaired_masks(base, self.plans_manager, self.configuration_manager, own_cases)
        self.print_to_log_file(f"{len(cases)} dense masks of other patients from {folder}")
        for note in notes:
            self.print_to_log_file(note)
        first = 1 if labeled.patch_size_was_2d else 0
        masks = nnUNetDataLoader(
            MaskDataset(folder, cases),
            labeled.batch_size,
            labeled.patch_size[first:],
            labeled.final_patch_size[first:],
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=label_transforms(labeled.transforms),
        )
        return {"masks": masks}

    def foreground(self, channels: Tensor) -> Tensor:
        return channels[:, 1:] if self.activation == "softmax" else channels

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        sizes = self.discriminator.module.sizes
        # a scale without a loss of its own (nnU-Net's lowest) would follow the discriminator alone
        taught = [scale for scale, weight in zip(logits, self.scale_weights) if weight > 1e-5][: self.scales]
        fake = mask_levels([self.foreground(probabilities(scale, self.activation)) for scale in taught], sizes)
        manager = self.label_manager
        labels, _ = split_ignored(batch.extras["masks"], manager.ignore_label, manager.has_regions)
        real = mask_levels([self.foreground(one_hot(labels, logits[0].shape[1], self.activation))], sizes)
        both = self.discriminator([torch.cat((r, f.detach())) for r, f in zip(real, fake, strict=True)])
        judged = [flip_signs(output, self.label_noise) for output in both.split([len(real[0]), len(fake[0])])]
        with self.frozen(self.discriminator):
            passed = flip_signs(self.discriminator.module(fake), self.label_noise)
        return {
            "adversarial": least_squares_generator_loss(passed),
            "discriminator": least_squares_discriminator_loss(*judged),
        }

    def weights(self) -> dict[str, float]:
        return {"adversarial": self.adversarial_weight, "discriminator": self.discriminator_weight}
