"""Scribble2Label: labels for what is not annotated, from the average of predictions over the run.

Lee & Jeong, "Scribble2Label: Scribble-Supervised Cell Segmentation via Self-Generating Pseudo-Labels with Consistency", MICCAI
2020, arXiv:2006.12890. Official code: hvcl/scribble2label (one class), HiLab-git/WSL4MIS, train_s2l.py (several classes).

From time to time the network predicts all training images, p, and their ensemble W follows:

    W <- alpha p + (1 - alpha) W,    u = c where W_c > confidence and there is no annotation, else none
    L = L_sup(x, y) + pseudo_weight CE(z, u), the mean over voxels with a label u;   pseudo_weight 0 in the warm-up

Whole images are predicted by nnU-Net's sliding window, W and u lie in the folder `ensemble` of the run, and u reaches the patches
through nnU-Net's loader and augmentation as a second label map.

Differs from the official code: updates after each 1/`updates` of the run (official: every 5 epochs, or every 100 of 60000
iterations), and W is the plain mean of the first 1/alpha predictions, as in Mean Teacher; in the official code it begins at 0, so
that `confidence` is out of reach for 8 updates, which would be 40 % of the run here. Predictions are made in evaluation mode
(WSL4MIS: training mode), labels change for all workers at once (there: when workers start again), and padding has no label (there:
background). L_sup is nnU-Net's cross entropy + Dice on annotated voxels (official: cross entropy alone), the weight is as
published; CE at all resolutions of deep supervision with nnU-Net's weights, the nearest label at lower ones. Regions: u_c = 1
where W_c > confidence, 0 where W_c < 1 - confidence, the official rule for its one class.

The files take 2 bytes per voxel and class of the preprocessed training images, on disk, and may be deleted after the run; a
checkpoint holds their number only. If training is continued from one that is older than the last update, the ensemble begins anew.
"""

from __future__ import annotations

from pathlib import Path

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunet_ssl.dataloading.ensemble_store import EnsembleStore
from nnunet_ssl.dataloading.extra_labels import WithExtraLabels, taking_extra_labels
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.ema import ema_decay_at
from nnunet_ssl.engine.value_ranges import Count, Share, Weight
from nnunet_ssl.losses.combine import over_scales
from nnunet_ssl.losses.cross_pseudo import filtered_cross_entropy
from nnunet_ssl.patches.mixing import resize_nearest
from nnunet_ssl.predictions.ensemble_labels import (
    MAX_REGIONS,
    NONE,
    confident_labels,
    pack_regions,
    unpack_regions,
    update_ensemble,
)
from nnunet_ssl.ramps import ends_a_part
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerScribble2Label(nnUNetTrainerWeak):
    """Scribble2Label: sparse labels, and labels that the average of earlier predictions is sure of.

    Passes per step (F+B, 19 predictions of all images): nnU-Net's; `updates` - 1 predictions of all images in a run.
    """

    pseudo_weight: Weight = 0.5  # as in the official code
    warmup_fraction: Share = 0.1  # of the run; official: 6000 of 60000 iterations
    updates: Count = 20  # parts of the run, after each of which the ensemble is updated; see above
    alpha: Share = 0.2  # share of the new prediction; as in the official code
    confidence: Share = 0.8  # probability above which a voxel gets a label; as in the official code
    mirroring: bool = False  # in the predictions; as in the official code. True: 4 (2D) or 8 times slower

    def build_method(self) -> None:
        if self.label_manager.has_regions and self.label_manager.num_segmentation_heads > MAX_REGIONS:
            raise NotImplementedError(
                f"{type(self).__name__} packs the labels of at most {MAX_REGIONS} regions into one label map, the data set has "
                f"{self.label_manager.num_segmentation_heads}"
            )
        self.ensemble = self.register_state("ensemble", EnsembleStore(Path(self.output_folder, "ensemble")))

    def labeled_dataset(self, dataset):
        if not self.ensemble.is_complete():
            if self.ensemble.updates:
                self.print_to_log_file(f"{self.ensemble.folder} is not the checkpoint's: the ensemble begins anew")
            self.ensemble.restart()
        self.training_cases = dataset
        return WithExtraLabels(dataset, self.ensemble.folder)

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        return taking_extra_labels(super().labeled_transforms(transforms))

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        labels = batch.extras["pseudo"]
        if self.label_manager.has_regions:
            labels = unpack_regions(labels, logits[0].shape[1])

        def loss(z: Tensor) -> Tensor:
            return filtered_cross_entropy(z, resize_nearest(labels, z.shape[2:]), NONE, self.activation)

        return {"pseudo": over_scales(loss, logits, self.scale_weights)}

    def weights(self) -> dict[str, float]:
        return {"pseudo": self.pseudo_weight if self.progress >= self.warmup_fraction else 0.0}

    def after_epoch(self) -> None:
        if ends_a_part(self.current_epoch, self.num_epochs, self.updates):
            self.update_labels()

    def update_labels(self) -> None:
        """Predict all training cases, and replace their ensembles and labels."""
        alpha = 1 - ema_decay_at(self.ensemble.updates, 1 - self.alpha)
        labeled = unannotated = 0
        self.ensemble.start_update()
        for case, p in self.predicted_cases(self.training_cases, mirroring=self.mirroring):
            before = self.ensemble.ensemble(case)
            ensemble = p if before is None else update_ensemble(before.to(p.device), p, alpha)
            segmentation = self.training_cases.load_case(case)[1][:]
            free = torch.from_numpy(segmentation == self.label_manager.ignore_label)[None].to(p.device)
            labels = confident_labels(ensemble[None], free, self.confidence, NONE, self.activation)
            unannotated += int(free.sum())
            labeled += int((labels != NONE).any(1).sum())
            packed = pack_regions(labels) if self.label_manager.has_regions else labels
            self.ensemble.write(case, ensemble, packed[0, 0])
        self.ensemble.finish_update()
        share = f"{labeled / max(unannotated, 1):.1%} of the voxels without annotation"
        self.print_to_log_file(f"Ensemble, update {self.ensemble.updates}: {share} have a label")
