"""Regularizers for sparse labels: one term on all voxels of the image beside nnU-Net's loss on the annotated ones.

    L = L_annotated + w(t) R(p, I),    w(t) = regularizer_weight exp(-5 (1 - progress / rampup_fraction)^2)

p: probabilities at the highest resolution, I: the patch's image. All are methods of HiLab-git/WSL4MIS and HiLab-git/PyMIC.

Differ from the official codes: L_annotated is nnU-Net's cross entropy and Dice of the annotated voxels with deep supervision. It
contains the partial cross entropy of the official loss with weight 1, so the weights are those of the official codes. Padding does
not count. Where slices are thick (`slicewise`) neighbors, means and contours are those of slices. Regions: entropy and contour of
each; means of each region and of what lies outside it. Logarithms and sums are in float32. The ramps move every iteration.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Duration, Weight
from nnunet_ssl.losses.contour import contour_length
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.losses.intensity_variance import intensity_variance
from nnunet_ssl.losses.mumford_shah import mumford_shah
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.patches.slices import fold_slices, has_thick_slices
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class ScribbleRegularizer(nnUNetTrainerWeak):
    """What the trainers of this file share. Passes per step: nnU-Net's."""

    regularizer_weight: Weight = 0.1
    rampup_fraction: Duration = 1.0  # of the run; 0: no ramp
    slicewise: bool | None = None  # 3D as a stack of slices; None: where nnU-Net calls the spacing anisotropic

    def regularizer(self, p: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        """R of probabilities `(B, C, *spatial)`, images `(B, channels, *spatial)` and which voxels are image `(B, 1, *spatial)`."""
        raise NotImplementedError

    def images(self, batch: SSLBatch) -> Tensor:
        """I: in [0, 1], as in the official codes, whose images are scaled to their range."""
        return rescale_to_unit(batch.labeled, batch.labeled_inside)

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        tensors = (probabilities(logits[0], self.activation), self.images(batch), batch.labeled_inside)
        slicewise = has_thick_slices(self.spacing) if self.slicewise is None else self.slicewise
        if slicewise and len(self.spacing) == 3:
            tensors = map(fold_slices, tensors)
        return {"regularizer": self.regularizer(*tensors)}

    def weights(self) -> dict[str, float]:
        return {"regularizer": ramped_weight(self.regularizer_weight, self.progress, self.rampup_fraction)}


class nnUNetTrainerScribbleEntropyMin(ScribbleRegularizer):
    """Entropy minimization: low entropy on all voxels.

    Grandvalet & Bengio, NeurIPS 2004; for sparse labels Luo et al., "WORD", Medical Image Analysis 2022, arXiv:2111.02403.
    R = mean entropy / ln C.
    """

    rampup_fraction: Duration = 0.0  # WSL4MIS: constant 0.1. PyMIC: 0.1 with a ramp over all iterations

    def images(self, batch: SSLBatch) -> Tensor:
        return batch.labeled  # they have no part in the entropy

    def regularizer(self, p: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        return entropy_loss(p, self.activation, inside)


class nnUNetTrainerScribbleTV(ScribbleRegularizer):
    """Short soft contours of the foreground, called total variation.

    Javanmardi et al., "Unsupervised Total Variation Loss for Semi-supervised Deep Learning of Semantic Segmentation",
    arXiv:1605.01368. R = mean (dilate(m) - m), m = erode(p), in windows of 3 voxels. Not the sum of differences; the official
    script of WSL4MIS leaves out the first patch of a batch where it means to leave out the background, PyMIC pools across
    classes; neither is followed.
    """

    regularizer_weight: Weight = 0.01  # WSL4MIS
    rampup_fraction: Duration = 0.0  # WSL4MIS: constant

    def images(self, batch: SSLBatch) -> Tensor:
        return batch.labeled  # they have no part in the contour

    def regularizer(self, p: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        return contour_length(p, self.activation, inside)


class nnUNetTrainerScribbleMumfordShah(ScribbleRegularizer):
    """Mumford-Shah: intensities constant inside each class, short boundaries.

    Kim & Ye, IEEE TIP 2020, arXiv:1904.02872, in the form of PyMIC: R = mean [sum_c p_c (I - mu_c)^2 + tv_weight |grad p_c|]. The
    paper's code sums and multiplies by 1e-6; WSL4MIS hands image and prediction over in the wrong order, which is not followed.
    Means are those of the patch.
    """

    tv_weight: Weight = 1.0  # PyMIC; 1e-3 in the paper's code

    def regularizer(self, p: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        return mumford_shah(p, images, self.activation, inside, self.tv_weight)


class nnUNetTrainerScribbleIntensityVariance(ScribbleRegularizer):
    """Small variance of intensities inside each class.

    Luo et al., "WORD", Medical Image Analysis 2022, arXiv:2111.02403: R = mean_n sum_c sum_v p_c (I - mu_c)^2 / sum_v p_c, in the
    form of PA-Seg (Zhai et al., IEEE TMI 2023). The code of WSL4MIS rewards a large spread inside classes and equal means,
    the opposite of what the paper says; it is not followed.
    """

    def regularizer(self, p: Tensor, images: Tensor, inside: Tensor) -> Tensor:
        return intensity_variance(p, images, self.activation, inside)
