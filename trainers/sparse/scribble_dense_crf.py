"""Dense CRF loss on sparse labels.

Tang, Perazzi, Djelouah, Ben Ayed, Schroers, Boykov, "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018,
arXiv:1803.09569. Official code: meng-tang/rloss.

As the Gated CRF loss, with all pairs of voxels of a patch instead of those of small windows:

    L = L_nnU-Net(annotated voxels) + w(t) sum_ij W_ij (1 - sum_c p_ic p_jc) / sum_ij W_ij    in [0, 1]
    W_ij = exp(-|x_i - x_j|^2 / (2 * 100^2) - |I_i - I_j|^2 / (2 * 15^2)),    I in [0, 255], three channels

Differs from the official code: the exact sum on a coarse grid instead of the permutohedral lattice at half the resolution (whose
scale is another; `method = "lattice"`), and divided by the sum of W, so that the weight does not depend on the size of the patch
(official: 2e-9 times a sum over pairs); nnU-Net's loss with deep supervision, the term on the highest resolution only; images in
[0, 1] by the 0.5 and 99.5 percentiles of the patch, and sigma accordingly: C channels are as far apart as three equal ones if
it is 15/255 sqrt(C/3); distances follow the spacing, in units of the smallest edge of a voxel; padding does not count; a late
start and a ramp (official: none, from pretrained weights). Regions: each a problem of two classes, mean over regions.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Count, Duration, Positive, Share, Weight
from nnunet_ssl.losses.dense_crf import dense_crf_loss
from nnunet_ssl.patches.coarse_grid import cell_means, halvings, whole_cells
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import delayed_sigmoid_rampup
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerScribbleDenseCRF(nnUNetTrainerWeak):
    """Sparse labels + dense CRF: all voxels of a patch that look alike and are not far apart get the same label.

    Passes per step (nnU-Net's, sums over cells): nnU-Net's; at most 64 x 64 cells per patch in 2D, 16 x 32 x 32 in 3D
    (`max_cells`). The time of the term grows with the cells of its grid (docs/performance.md), with several image channels
    with their square: from 10 % of the time of a U-Net of 32 to 256 features in 2D (48 x 48 cells) to 55 % of one of 16 to
    128 in 3D (16 x 32 x 32 cells; one CPU thread).
    """

    crf_weight: Weight = 0.1  # of the normalized loss, ours
    warmup_fraction: Share = 0.05  # of the run, without the term
    rampup_fraction: Duration = 0.4  # of the run, after that
    sigma_position: Positive = 100.0  # smallest edges of a voxel; as in the official code
    sigma_intensity: Positive = 15 / 255  # of images in [0, 1] with three channels; as in the official code
    max_cells: Count | None = None  # of the grid, per patch; None: 64 x 64 in 2D, 16 x 32 x 32 in 3D
    # or "lattice": approximate, its time grows with the number of cells only
    method: Literal["exact", "lattice"] = "exact"

    def build_method(self) -> None:
        patch = self.configuration_manager.patch_size
        limit = self.max_cells or (64 * 64 if len(patch) == 2 else 16 * 32 * 32)
        self.cells = halvings(patch, self.spacing, limit)
        self.edges = [length * voxels / min(self.spacing) for length, voxels in zip(self.spacing, self.cells)]
        self.sigma = self.sigma_intensity * math.sqrt(self.num_input_channels / 3)
        self.print_to_log_file(
            f"Dense CRF ({self.method}): cells of {self.cells} voxels, for a patch of {tuple(patch)} voxels; sigma is "
            f"{self.sigma_position * min(self.spacing):.3g} mm, and {self.sigma:.3g} of intensities in [0, 1]"
        )

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        loss = dense_crf_loss(
            cell_means(probabilities(logits[0], self.activation), self.cells),
            cell_means(rescale_to_unit(batch.labeled, batch.labeled_inside), self.cells),
            self.sigma_position,
            self.sigma,
            self.edges,
            whole_cells(batch.labeled_inside, self.cells),
            self.activation,
            self.method,
            intensity_range=(0.0, 1.0),
        )
        return {"dense_crf": loss}

    def weights(self) -> dict[str, float]:
        return {
            "dense_crf": delayed_sigmoid_rampup(
                self.progress, self.warmup_fraction, self.rampup_fraction, self.crf_weight
            )
        }
