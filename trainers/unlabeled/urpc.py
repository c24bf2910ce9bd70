"""URPC: uncertainty rectified pyramid consistency.

Luo, Liao, Chen, Song, Chen, Zhang, Chen, Wang, Zhang, "Efficient Semi-supervised Gross Target Volume of Nasopharyngeal
Carcinoma Segmentation via Uncertainty Rectified Pyramid Consistency", MICCAI 2021, arXiv:2012.07042; Medical Image Analysis
2022. Official code: HiLab-git/SSL4MIS (train_uncertainty_rectified_pyramid_consistency_2D.py, ..._3D.py).

What the decoder predicts at several resolutions p_s is asked to agree with the mean q of these, less where it diverges from it:

    L = L_sup(x, y) + w(t) mean_s [ mean_{n,c,v} e^{-D_s} (q - p_s)^2 / mean_{n,v} e^{-D_s} + mean_{n,v} D_s ]
    D_s = KL(q || p_s),    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

The pyramid is nnU-Net's own: its deep supervision. Logits of lower resolutions are interpolated to the highest one. Gradients go
through q, the weights and the divergences, as in the official code.

Differs from the official code: L_sup is nnU-Net's loss, with its weights and targets of lower scales (official: all scales
alike, at the highest resolution), about twice the official 0.5 (CE + Dice), so the weight is twice the official one; no dropout
and no noise before the heads of lower scales; the lowest scale, which has no labeled loss in nnU-Net, takes no part; padding
does not count; the ramp moves every iteration. The official 3D ramp ends at 60000 iterations, where the scripts with 30000
never arrive. Regions: Bernoulli divergences, one weight for each.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Count, Duration, Weight
from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.pyramid import pyramid_consistency, upsampled
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerURPC(nnUNetTrainerSSL):
    """URPC: the predictions of all scales of deep supervision agree on unlabeled patches.

    Passes per step (F+B on L+U): forward and backward on labeled and unlabeled patches in one batch; up to four predictions
    at full resolution in memory.
    """

    consistency_weight: Weight = 0.2  # official code: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; official: 30000 of 30000 iterations (2D), 60000 of 60000 (3D)
    scales: Count = 4  # highest resolutions that take part, as far as there are so many; as in the official code
    # of lower scales; the official 3D code; or "nearest", the 2D code
    interpolation: Literal["linear", "nearest"] = "linear"

    unsupported = {
        "no_deep_supervision": "its pyramid is that of deep supervision. Leave enable_deep_supervision = True."
    }

    def build_method(self) -> None:
        # nnU-Net gives the lowest scale no labeled loss: it would follow the others alone
        self.taught = [i for i, weight in enumerate(self.scale_weights) if weight > 1e-5][: self.scales]
        if len(self.taught) < 2:
            raise UserError(
                f"{type(self).__name__} compares scales of deep supervision that have a labeled loss: it needs two, and has "
                f"{len(self.taught)} in these plans (scales = {self.scales}). Plan a network with more stages, or set scales = 2 "
                "or more."
            )

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        pyramid = upsampled([logits[i] for i in self.taught], self.interpolation)
        return {"consistency": pyramid_consistency(pyramid, self.activation, batch.inside)}

    def weights(self) -> dict[str, float]:
        return {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}
