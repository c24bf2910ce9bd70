"""DTC: dual-task consistency.

Luo, Chen, Song, Wang, "Semi-supervised Medical Image Segmentation through Dual-task Consistency", AAAI 2021,
arXiv:2009.04448. Official code: HiLab-git/DTC (train_la_dtc.py).

A second head on the last decoder features regresses the signed distance to the surface of each object. Turned into a mask
by a steep sigmoid, it has to agree with the segmentation, on labeled and unlabeled patches:

    L = L_sup(x, y) + sdf_weight mean (z - phi)^2 + w(t) mean_{labeled and unlabeled} (T(z) - p)^2
    T(z) = sigmoid(k z),    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

z: level set in [-1, 1], phi: signed distance map of the label, each side normalized by its range in the patch, p:
probability of the segmentation head. Neither side of the consistency is detached.

Differs from the official code: L_sup is nnU-Net's deeply supervised cross entropy + Dice where the official code has Dice
alone. nnU-Net's loss contains this Dice with weight 1, so the weights of the other terms are those of the official code (the usual
doubling is for methods with 0.5 (CE + Dice)). One level set per foreground class or region, compared with its softmax or
sigmoid probability; for one region this is as in the official code. An object that is absent from a patch or fills it is left
out of the distance loss (official: a target of 0 everywhere, or NaN), and so is a patch with ignored voxels; labels that have
no other patches are refused; padding of unlabeled patches does not count. The ramp moves every iteration instead of every
150. No dropout before the heads. Distances are computed by the workers of the loader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from torch import Tensor

from nnunet_ssl.dataloading.whole_patches import refuse_without_whole_patches
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH, LABELED
from nnunet_ssl.engine.value_ranges import Duration, Range, Weight
from nnunet_ssl.losses.dual_task import dual_task_consistency, level_set_mse
from nnunet_ssl.networks.features import FeatureTap, LevelSetHead, segmentation_layer
from nnunet_ssl.patches.distance_maps import LevelSetTargets, has_boundary
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerDTC(nnUNetTrainerSSL):
    """DTC: a head for signed distances that has to describe the same objects as the segmentation.

    Passes per step (F+B on L+U, a 1x1 head): forward and backward on labeled and unlabeled patches in one batch; distance
    transforms of the labels on the CPU.
    """

    consistency_weight: Weight = 1.0  # as in the official code, see above
    rampup_fraction: Duration = 1.0  # of the run; official: all 6000 iterations
    sdf_weight: Weight = 0.3  # beta of the official code
    steepness: Annotated[float, Range(None, 0, without=0)] = -1500.0  # k of the sigmoid; as in the official code
    distances_in_mm: bool = False  # official: in voxels. True uses the plan's spacing, for anisotropic patches
    term_patches = {"sdf": LABELED, "consistency": BOTH}

    def build_method(self) -> None:
        layer = segmentation_layer(self.student.module)
        self.features = FeatureTap(layer, "input")
        self.level_set = self.register_module("level_set", LevelSetHead(layer, self.num_objects), optimizer="shared")

    def find_cases(self) -> None:
        super().find_cases()
        refuse_without_whole_patches(self)

    def labeled_extras(self) -> Callable[[Tensor], dict[str, Tensor]]:
        spacing = tuple(self.configuration_manager.spacing) if self.distances_in_mm else None
        labels = self.label_manager
        return LevelSetTargets(self.num_objects, labels.has_regions, spacing, labels.ignore_label)

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        n = batch.num_labeled
        scales = self.student(batch.images)
        level_set = self.level_set(self.features.take())
        maps, counted = batch.extras["level_set"], batch.counted()
        return {
            "labeled": self.supervised_loss(batch.labeled_part(scales), batch.target, batch),
            "sdf": level_set_mse(level_set[:n], maps, has_boundary(maps)),
            "consistency": dual_task_consistency(level_set, scales[0], self.activation, self.steepness, counted),
        }

    def weights(self) -> dict[str, float]:
        consistency = ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)
        return {"sdf": self.sdf_weight, "consistency": consistency}
