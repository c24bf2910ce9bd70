"""Size constraints: the segmented object must be neither smaller nor larger than objects of its kind are.

Kervadec et al., "Constrained-CNN losses for weakly supervised segmentation", Medical Image Analysis 54, 2019, arXiv:1805.04628.
Official code: LIVIAETS/SizeLoss_WSS. Log barrier: Kervadec et al., EUSIPCO 2022, arXiv:1904.04205, LIVIAETS/extended_logbarrier.

    L = L_annotated + size_weight / |patch| mean_{n,c} [psi(V_nc - b_c) + psi(a_c - V_nc)],    V_nc = sum_v p_ncv
    psi(z) = max(0, z)^2, or the extended log barrier psi_t(z), t = min(t_start t_factor^(barrier_epochs progress), t_highest)

The bounds [a, b] of each class are in the key `size_bounds` of dataset.json, see `nnunet_ssl.data.size_bounds`.

Differs from the official code: L_annotated is nnU-Net's loss of all annotated voxels, background included (official: cross entropy
of foreground seeds alone). Bounds are of an image and patches are a part of it. So b always holds; a holds where the class is
annotated in the patch and the patch is as large as the median image of a 2d configuration (`lower_bounds`), which is
the setting of the official code, one slice being one image. Official: bounds [0, 0] for images without the class, which needs to
know that; `absent_unless_annotated` says that a class is absent from every patch without an annotated voxel of it. Scaling is left
out of the augmentation, since it changes sizes. t stops growing at t_highest. The highest resolution only; padding does not count.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunet_ssl.data.size_bounds import read_size_bounds
from nnunet_ssl.dataloading.augmentation import spatial_changed
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Positive, Weight
from nnunet_ssl.losses.region import one_hot, split_ignored
from nnunet_ssl.losses.size import barrier_steepness, size_loss, soft_sizes
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerSizeConstraint(nnUNetTrainerWeak):
    """Size constraints: bounds on the size of each class, as a log barrier or a quadratic penalty.

    Passes per step: nnU-Net's.
    """

    size_weight: Weight = 0.01  # as in the official code
    penalty: Literal["log_barrier", "quadratic"] = "log_barrier"  # or "quadratic"
    t_start: Positive = 5.0  # as in the official code
    t_factor: Positive = 1.1  # per epoch of the official code
    barrier_epochs: Positive = 200.0  # epochs of the official code, stretched over the run
    t_highest: Positive = 1000.0  # beyond, a violation of one voxel would outweigh everything else
    lower_bounds: bool | None = None  # where a class is annotated; None: in 2d, if patches are as large as images
    absent_unless_annotated: bool = False

    def build_method(self) -> None:
        file = f"{self.preprocessed_dataset_folder_base}/dataset.json"
        bounds = read_size_bounds(self.dataset_json, len(self.spacing), file)
        self.channels = list(bounds)
        in_voxels = torch.tensor(list(bounds.values())) / math.prod(self.spacing)
        self.bounds = in_voxels.to(self.device)  # (classes, 2)
        patch, image = self.configuration_manager.patch_size, self.configuration_manager.median_image_size_in_voxels
        whole = len(patch) == 2 and all(p >= i for p, i in zip(patch, image[-2:]))
        self.use_lower_bounds = whole if self.lower_bounds is None else self.lower_bounds
        self.print_to_log_file(
            f"Bounds in voxels by channel: {dict(zip(self.channels, in_voxels.round().int().tolist()))}; lower bounds "
            f"are {'' if self.use_lower_bounds else 'not '}used."
        )

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        return super().labeled_transforms(spatial_changed(transforms, p_scaling=0.0))

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        sizes = soft_sizes(probabilities(logits[0], self.activation)[:, self.channels], batch.labeled_inside)
        target = batch.target[0] if isinstance(batch.target, list) else batch.target
        labels, annotated = split_ignored(target, self.label_manager.ignore_label, self.label_manager.has_regions)
        labels = one_hot(labels, logits[0].shape[1], self.activation)[:, self.channels]
        present = soft_sizes(labels, annotated) > 0
        absent = ~present if self.absent_unless_annotated else torch.zeros_like(present)
        bounds = torch.where(absent[..., None], 0, self.bounds)
        lower = present if self.use_lower_bounds else torch.zeros_like(present)
        counted = torch.stack((lower, torch.ones_like(lower)), -1)
        voxels = logits[0][0, 0].numel()
        return {"size": size_loss(sizes, bounds, voxels, t=self._steepness(), counted=counted)}

    def _steepness(self) -> float | None:
        if self.penalty == "quadratic":
            return None
        return barrier_steepness(self.t_start, self.t_factor, self.barrier_epochs * self.progress, self.t_highest)

    def weights(self) -> dict[str, float]:
        return {"size": self.size_weight}
