"""SASSNet: shape-aware semi-supervised segmentation.

Li, Zhang, He, "Shape-aware Semi-supervised 3D Semantic Segmentation for Medical Images", MICCAI 2020, arXiv:2007.10732. Official
code: kleinzcy/SASSnet (train_gan_sdfloss.py).

A second head on the last decoder features regresses the signed distance to the surface of each object, z in [-1, 1], and a
discriminator D (`dan.py`) sees it with the image: the shapes on unlabeled images have to pass for those on labeled ones.

    L   = L_sup(x, y) + sdf_weight mean (z(x) - phi)^2 + w(t) mean_u -ln D(z(u), u)_labeled
    L_D = mean over x and u of the cross entropy of D(z, image) with what the image is
    w(t) = adversarial_weight exp(-5 (1 - progress / rampup_fraction)^2)

phi: signed distance map of the label, each side normalized by its range in the patch. The head is not stored with the network that
predicts.

Differs from the official code: L_sup is nnU-Net's cross entropy + Dice with deep supervision (official: Dice alone); it contains
the Dice with weight 1, so the other weights are as official. One level set per foreground class or region (official: one class). An
object that is absent from a patch or fills it is left out of the distance loss (official: a target of 0, or NaN), and so is a patch
with ignored voxels; labels that have no other patches are refused. D sees the image, as official, else it is that of `dan.py`.
nnU-Net's learning rate schedule; no dropout before the heads. Distances are computed by the workers of the loader.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nnunet_ssl.dataloading.whole_patches import refuse_without_whole_patches
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH, LABELED
from nnunet_ssl.engine.value_ranges import Weight
from nnunet_ssl.losses.dual_task import level_set_mse
from nnunet_ssl.networks.features import FeatureTap, LevelSetHead, segmentation_layer
from nnunet_ssl.patches.distance_maps import LevelSetTargets, has_boundary
from nnunet_ssl.trainers.unlabeled.dan import nnUNetTrainerDAN


class nnUNetTrainerSASSNet(nnUNetTrainerDAN):
    """SASSNet: a head for signed distances, whose shapes on unlabeled patches pass for those on labeled ones.

    Passes per step (F+B on L+U, a 1x1 head, discriminator): forward and backward on labeled and unlabeled patches in one
    batch; forward and backward of the discriminator for all of them, and once more for the unlabeled ones; distance
    transforms of the labels on the CPU.
    """

    adversarial_weight: Weight = 0.01  # as in the official code with 16 labeled cases; 0.015 with 8
    sdf_weight: Weight = 0.3  # beta of the official code
    distances_in_mm: bool = False  # official: in voxels. True uses the plan's spacing, for anisotropic patches
    discriminator_sees_image = True  # as in the official code
    term_patches = {"sdf": LABELED, "discriminator": BOTH}

    def build_method(self) -> None:
        layer = segmentation_layer(self.student.module)
        self.features = FeatureTap(layer, "input")
        self.level_set = self.register_module("level_set", LevelSetHead(layer, self.num_objects), optimizer="shared")
        self.register_discriminator(self.num_objects)

    def find_cases(self) -> None:
        super().find_cases()
        refuse_without_whole_patches(self)

    def labeled_extras(self) -> Callable[[Tensor], dict[str, Tensor]]:
        spacing = tuple(self.configuration_manager.spacing) if self.distances_in_mm else None
        labels = self.label_manager
        return LevelSetTargets(self.num_objects, labels.has_regions, spacing, labels.ignore_label)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        level_set, maps = self.level_set(self.features.take()), batch.extras["level_set"]
        sdf = level_set_mse(level_set[: batch.num_labeled], maps, has_boundary(maps))
        return {"sdf": sdf} | self.adversarial_terms(level_set, batch)

    def weights(self) -> dict[str, float]:
        return {"sdf": self.sdf_weight} | super().weights()
