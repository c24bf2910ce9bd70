"""Entropy minimization.

Grandvalet & Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004. Segmentation: Vu, Jain, Bucher, Cord, Perez,
"ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", CVPR 2019, arXiv:1811.12833 (the branch
MinEnt), valeoai/ADVENT; HiLab-git/SSL4MIS (train_entropy_minimization_2D.py, ..._3D.py).

Predictions on unlabeled patches are asked to be certain:

    L = L_sup(x, y) + w(t) mean_v H(p(u)_v) / ln C,    H(p) = -sum_c p_c ln p_c
    w(t) = entropy_weight exp(-5 (1 - progress / rampup_fraction)^2)

A network that calls everything background has no entropy either, so the weight is small and ramped.

Differs from SSL4MIS: only unlabeled patches, as in both papers (`on_labeled = True`: as in SSL4MIS, whose mean goes over
labeled patches too); C is the number of classes (official: written into each script). L_sup is nnU-Net's loss with deep
supervision, about twice the official 0.5 (CE + Dice), so the weight is twice the official one; highest resolution only; padding
does not count; the ramp moves every iteration instead of every 150. Regions: binary entropies in units of ln 2. ADVENT has
0.001 without a ramp, for the shift between two kinds of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.value_ranges import Duration, Weight
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerEntropyMinimization(nnUNetTrainerSSL):
    """Entropy minimization: certain predictions on unlabeled patches.

    Passes per step (F+B on L+U): forward and backward on labeled and unlabeled patches in one batch.
    """

    entropy_weight: Weight = 0.2  # official code: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; official: 30000 of 30000 iterations
    on_labeled: bool = False  # the mean goes over labeled patches as well; as in SSL4MIS

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        scale, counted = logits[0], batch.inside
        if self.on_labeled:
            scale, counted = torch.cat((batch.labeled_logits["student"][0], scale)), batch.counted()
        return {"entropy": entropy_loss(probabilities(scale, self.activation), self.activation, counted)}

    def weights(self) -> dict[str, float]:
        return {"entropy": ramped_weight(self.entropy_weight, self.progress, self.rampup_fraction)}
