"""Gated CRF loss on sparse labels.

Obukhov, Georgoulis, Dai, Van Gool, "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation", arXiv:1906.04651.
Official code: toshas/GatedCRFLoss; for scribbles on MR images HiLab-git/WSL4MIS, in 3D HiLab-git/PA-Seg (Zhai et al.) and PyMIC.

Voxels near each other with like intensities should get the same label, whether they are annotated or not:

    L = L_nnU-Net(annotated voxels) + w(t) 1/V sum_i sum_{j in window(i)} K_ij (1 - sum_c p_ic p_jc)
    K_ij = exp(-|x_i - x_j|^2 / (2 * 6^2) - |I_i - I_j|^2 / (2 * 0.1^2))

2D: windows of 11 x 11 voxels. 3D: the same windows in the slices across the coarsest axis where spacing is anisotropic by nnU-Net's
rule (factor 3; as PyMIC), else in the slices across each axis, the mean of three views on a grid of half the resolution (PA-Seg).

Differs from the official codes: nnU-Net's loss with deep supervision in place of the partial cross entropy, the term on the
highest resolution only; images in [0, 1] by the 0.5 and 99.5 percentiles of the patch; distances follow the spacing, in units of
the smallest edge of a voxel (of a cell); pairs with padding do not count, so that the constant the official window adds
at the border is absent; no term while the first labels shape the classes, then a ramp (as PyMIC; WSL4MIS: 0.1 from the start;
PA-Seg: up to 1). Regions: each a problem of two classes, mean over regions.
"""

from __future__ import annotations

from typing import Literal

from nnunetv2.configuration import ANISO_THRESHOLD
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Count, Duration, Positive, Share, Weight
from nnunet_ssl.losses.gated_crf import GaussianKernel, gated_crf_loss, three_view_gated_crf_loss
from nnunet_ssl.patches.coarse_grid import cell_means, whole_cells
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import delayed_sigmoid_rampup
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak

_WINDOWS = {"slices": 1, "three_views": 2, "volume": 1}  # window -> voxels per cell and axis where `cell` does not say


class nnUNetTrainerScribbleGatedCRF(nnUNetTrainerWeak):
    """Sparse labels + Gated CRF: neighbors that look alike get the same label.

    Passes per step (nnU-Net's, window passes): nnU-Net's; a few elementwise passes per shift of the window (60 in 2D, 180 in
    three views on 1/8 of the voxels). The term took 7 % of the time of a U-Net of 32 to 256 features in 2D, and in three
    views of one of 16 to 128 (one CPU thread), and memory for a few more maps of probabilities.
    """

    crf_weight: Weight = 0.1  # as in the official code (WSL4MIS, PyMIC)
    warmup_fraction: Share = 0.05  # of the run, without the term
    rampup_fraction: Duration = 0.4  # of the run, after that; PyMIC: until the end, or 15000 iterations
    radius: Count = 5  # of the windows, voxels (cells); as in the official code. "volume": 2 or 3 fit memory and time
    sigma_position: Positive = 6.0  # smallest edges of a voxel (of a cell); as in the official code
    sigma_intensity: Positive = 0.1  # of images in [0, 1]; as in the official code
    # or, in 3D, "slices", "three_views", "volume" (3D windows)
    window: Literal["auto", "slices", "three_views", "volume"] = "auto"
    cell: Count | None = None  # voxels per cell and axis (not across "slices"); None: 2 for "three_views", else 1

    def build_method(self) -> None:
        axes, coarsest = len(self.spacing), max(self.spacing)
        self.chosen = self.window
        if axes == 2:
            self.chosen = "volume"  # of a 2D image: all that there is
        elif self.window == "auto":
            self.chosen = "slices" if coarsest > ANISO_THRESHOLD * min(self.spacing) else "three_views"
        across = self.spacing.index(coarsest) if self.chosen == "slices" else None
        cell = self.cell or _WINDOWS[self.chosen]
        self.cells = [1 if axis == across else cell for axis in range(axes)]
        self.radii = [0 if axis == across else self.radius for axis in range(axes)]
        edges = [length * voxels for length, voxels in zip(self.spacing, self.cells)]
        self.edges = [edge / min(edges) for edge in edges]
        shape = "three views" if self.chosen == "three_views" else "one view"
        self.print_to_log_file(
            f"Gated CRF: {shape}, radius {self.radii} in cells of {self.cells} voxels, for a spacing of {self.spacing} mm; "
            f"sigma is {self.sigma_position * min(edges):.3g} mm"
        )

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        inside = whole_cells(batch.labeled_inside, self.cells)
        images = cell_means(rescale_to_unit(batch.labeled, batch.labeled_inside), self.cells)
        p = cell_means(probabilities(logits[0], self.activation), self.cells)
        three = self.chosen == "three_views"
        loss = (three_view_gated_crf_loss if three else gated_crf_loss)(
            p,
            images,
            kernels=[GaussianKernel(1.0, self.sigma_position, self.sigma_intensity)],
            radius=self.radius if three else self.radii,
            spacing=self.edges,
            activation=self.activation,
            source=inside,
            destination=inside,
        )
        return {"gated_crf": loss}

    def ramp(self, weight: float) -> float:
        """`weight` at this point of the run: 0, then rising."""
        return delayed_sigmoid_rampup(self.progress, self.warmup_fraction, self.rampup_fraction, weight)

    def weights(self) -> dict[str, float]:
        return {"gated_crf": self.ramp(self.crf_weight)}
