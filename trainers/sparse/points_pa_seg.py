"""PA-Seg, stage 1: contextual regularization of a network that learns from points.

Zhai, Wang, Luo, Yue, Li, Zhang, "PA-Seg: Learning from Point Annotations for 3D Medical Image Segmentation using Contextual
Regularization and Cross Knowledge Distillation", IEEE TMI 2023, arXiv:2208.05669. Official code: HiLab-git/PA-Seg.

Points are first expanded by geodesic distance (`nnunet_ssl expand --method geodesic`). The network learns from these labels, and
on all voxels from two regularizers:

    L = L_annotated + r(t) (L_mCRF + 0.1 L_VM),    r(t) = exp(-5 (1 - progress / 0.1)^2)
    L_mCRF: Gated CRF loss in slices across each axis of a volume, see nnUNetTrainerScribbleGatedCRF
    L_VM = mean_n sum_c sum_v p_c (I - mu_c)^2 / sum_v p_c,    mu_c = sum_v p_c I / sum_v p_c

For the background, L_VM leaves out the voxels with the lowest intensity of the patch: the empty surrounding of skull-stripped
images.

Only stage 1 of the paper is here. Stage 2 (two networks of different architecture, trained in turn on hard labels and softened
probabilities of frozen copies of both, which are exchanged for the best checkpoints every 20 epochs) is not; its losses are
`tests.golden.reference.points.partial_dice_ce` and `distillation_loss`.

Differs from the official code: L_annotated is nnU-Net's loss with the ignore label and deep supervision; both terms on the
highest resolution; images in [0, 1] by the 0.5 and 99.5 percentiles of the patch; L_mCRF at half the resolution (official: a grid
of 64 x 64 x 48 or 64^3), in slices only where spacing is anisotropic (`window`), in windows of images in 2D; padding does not
count; several image channels: the sum of their variances; regions: each region and what lies outside it.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Duration, Share, Weight
from nnunet_ssl.losses.intensity_variance import intensity_variance
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.trainers import nnUNetTrainerScribbleGatedCRF


class nnUNetTrainerPointsPASeg(nnUNetTrainerScribbleGatedCRF):
    """Points, expanded, + Gated CRF in three views + small variance of intensities inside each class (PA-Seg, stage 1).

    Passes per step (nnU-Net's, window passes): nnU-Net's. Memory and time of the terms: as nnUNetTrainerScribbleGatedCRF.
    """

    crf_weight: Weight = 1.0  # as in the official code
    variance_weight: Weight = 0.1  # as in the official code, of images in [0, 1]
    warmup_fraction: Share = 0.0  # official: the ramp begins with the run
    rampup_fraction: Duration = 0.1  # of the run; official: 30 of 300 epochs, 50 of 500
    without_minimum: bool = True  # as in the official code, see above; False where the background is not empty

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        variance = intensity_variance(
            probabilities(logits[0], self.activation),
            rescale_to_unit(batch.labeled, batch.labeled_inside),
            self.activation,
            batch.labeled_inside,
            without_minimum=self.without_minimum,
        )
        return super().weak_terms(logits, batch) | {"variance": variance}

    def weights(self) -> dict[str, float]:
        return super().weights() | {"variance": self.ramp(self.variance_weight)}
