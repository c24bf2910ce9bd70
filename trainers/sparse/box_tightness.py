"""Box tightness: learning from bounding boxes, each line of which has to meet the object.

Kervadec et al., "Bounding boxes for weakly supervised segmentation: Global constraints get close to full supervision", MIDL 2020,
arXiv:2004.06816. Official code: LIVIAETS/boxes_tightness_prior. The prior: Hsu et al., NeurIPS 2019.

    L = L_annotated + tightness_weight mean_s psi_t(w_s - sum_{v in s} p_v)
        + size_weight / |patch| sum_b [psi_t(V_b - f |b|) + psi_t(a |b| - V_b)],    V_b = sum_{v in b} p_v

s: strips of w_s lines (3D: slabs of planes) through the boxes b, psi_t: extended log barrier with
t = min(t_start t_factor^(barrier_epochs progress), t_highest); without `barrier` max(0, z) for strips, max(0, z)^2 for sizes.

Labels: 0 outside all boxes, the ignore label inside, optionally some annotated voxels of the object (seeds). `nnunet_ssl weaken
--kind boxes` makes them. Boxes are found again in every augmented patch (`nnunet_ssl.patches.boxes.BoxTargets`); with several
classes a box needs a seed to say which class it is of, and boxes that touch or overlap say nothing if their seeds differ, and
have no size. For a 2d configuration boxes have to be tight in every slice. a = 0.5 in 2D; in 3D 0.15, since an ellipsoid fills 0.52
of its box and left atria 0.20 to 0.28; f = 0.9.

Differs from the official code: the background outside the boxes is taught by nnU-Net's loss (official: a cross entropy or a barrier
there). The mean over strips instead of their sum, so the weight is 1e-2 instead of 1e-4; strips cover the box (official: its last
line is missing or on top). Sizes are those inside each box. Patches cut boxes: strips whose ends may lie outside the patch, and
sizes of boxes that reach its edge, are left out. No rotation in the augmentation, since the box around a rotated box is not tight.
t stops growing at t_highest. The highest resolution only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunet_ssl.dataloading.augmentation import spatial_changed
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Count, Positive, Rising, Share, Weight
from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.size import barrier_steepness, scaled_bounds, size_loss
from nnunet_ssl.losses.tightness import tightness_loss
from nnunet_ssl.patches.boxes import BoxTargets, box_sums, box_volumes
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.weak.boxes import refuse_loose_boxes
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak

AREA_SHARES = {2: (0.5, 0.9), 3: (0.15, 0.9)}  # smallest and largest, by dimension; 2D as in the official code


class nnUNetTrainerBoxTightness(nnUNetTrainerWeak):
    """Box tightness: the object meets every line of its bounding box and fills a certain share of it.

    Passes per step (nnU-Net's): nnU-Net's; boxes are found by the workers of the loader.
    """

    tightness_weight: Weight = 0.01  # official code: 1e-4, see above
    size_weight: Weight = 0.01  # as in the official code
    strip_width: Count = 5  # voxels; as in the official code
    # of a box that the object fills; None: `AREA_SHARES`
    area_shares: Annotated[tuple[Share, Share], Rising()] | None = None
    barrier: bool = True
    t_start: Positive = 5.0  # as in the official code
    t_factor: Positive = 1.1  # per epoch of the official code
    barrier_epochs: Positive = 100.0  # epochs of the official code, stretched over the run
    t_highest: Positive = 1000.0  # beyond, a violation of one voxel would outweigh everything else
    unsupported = {"regions": "one label map cannot hold boxes of regions that lie in each other; train with classes"}

    def check_supported(self) -> None:
        super().check_supported()
        file = f"{self.preprocessed_dataset_folder_base}/dataset.json"
        slices = self.plans_manager.transpose_forward[0] if len(self.configuration_manager.patch_size) == 2 else None
        refuse_loose_boxes(self.dataset_json, slices, file)
        if self.padding != "background":
            raise NotImplementedError(
                f"{type(self).__name__}.padding is {self.padding!r}: padding with the ignore label would look like a box."
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        self._refuse_boxes_of_unknown_class()

    def _refuse_boxes_of_unknown_class(self) -> None:
        classes = self.label_manager.foreground_labels
        cases = self.dataset_class(self.preprocessed_dataset_folder, list(self.cases.train))
        if len(classes) > 1 and not any(
            len(cases.load_case(case)[3]["class_locations"][c]) for case in self.cases.train for c in classes
        ):
            raise UserError(
                f"{self.preprocessed_dataset_folder_base}: there are {len(classes)} foreground classes and no training case has "
                "an annotated voxel of any, so nothing says which class a box is of. Annotate at least one voxel in each box, "
                "or make a data set with one foreground class for each class."
            )

    def labeled_extras(self) -> Callable[[Tensor], dict[str, Tensor]]:
        return BoxTargets(len(self.label_manager.foreground_labels), self.strip_width)

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        return super().labeled_transforms(spatial_changed(transforms, p_rotation=0.0))

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        p, boxes = probabilities(logits[0], self.activation), batch.extras["boxes"]
        t = None
        if self.barrier:
            t = barrier_steepness(self.t_start, self.t_factor, self.barrier_epochs * self.progress, self.t_highest)
        bounds = scaled_bounds(box_volumes(boxes), *(self.area_shares or AREA_SHARES[p.ndim - 2]))
        return {
            "tightness": tightness_loss(p, batch.extras["strips"], batch.extras["bounds"], t=t),
            "box_size": size_loss(box_sums(p, boxes), bounds, p[0, 0].numel(), t=t, reduction="sum"),
        }

    def weights(self) -> dict[str, float]:
        return {"tightness": self.tightness_weight, "box_size": self.size_weight}
