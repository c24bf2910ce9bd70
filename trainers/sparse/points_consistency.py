"""Consistency of mirrored images, for points (WSCL).

Laradji, Rodriguez, Manas, Lensink, Law, Kurzman, Parker, Vazquez, Nowrouzezahrai, "A Weakly Supervised Consistency-based Learning
Method for COVID-19 Segmentation in CT Images", WACV 2021, arXiv:2007.02180. Official code: IssamLaradji/covid19_weak_supervision.

A patch x and its mirror image M x are both segmented, both are held to the points, and the predictions have to be mirror images:

    L = L_annotated(f(x), y) + L_annotated(f(M x), M y) + mean_{n,c,v} | p(x) - M p(M x) |

Differs from the official code: L_annotated is nnU-Net's loss with the ignore label and deep supervision (official: binary cross
entropy on points); probabilities are compared (official: the single logit of a binary network; the scale of softmax logits means
nothing), at the highest resolution, outside of padding; M mirrors along a random choice of the axes that nnU-Net mirrors, at
least one (official: horizontally); both copies are one batch (official: two forward passes; the same for instance norm).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import refuse_without_mirroring
from nnunet_ssl.engine.value_ranges import Weight
from nnunet_ssl.losses.points import mirror_consistency
from nnunet_ssl.patches.turns import turn_and_flip
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


def draw_axes(allowed: tuple[int, ...], random=np.random) -> tuple[int, ...]:
    """A non-empty subset of the axes, each with the same probability. ValueError if there is no axis."""
    if not allowed:
        raise ValueError("mirror images are compared, but nnU-Net's mirroring is switched off")
    chosen = random.randint(1, 2 ** len(allowed))
    return tuple(axis for bit, axis in enumerate(allowed) if chosen >> bit & 1)


class nnUNetTrainerPointsConsistency(nnUNetTrainerWeak):
    """Points: consistency of a patch and its mirror image (WSCL).

    Passes per step (F+B on 2 L): forward and backward on the labeled patches and their mirror images, twice nnU-Net's.
    """

    mirrored_weight: Weight = 1.0  # of the loss on the mirrored points; as in the official code
    consistency_weight: Weight = 1.0  # as in the official code; no ramp

    def check_supported(self) -> None:
        super().check_supported()
        refuse_without_mirroring(self)

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        axes = tuple(2 + axis for axis in draw_axes(self.inference_allowed_mirroring_axes))
        both = self.student(torch.cat((batch.labeled, turn_and_flip(batch.labeled, 0, axes))))
        scales, of_mirrored = zip(*(scale.split(batch.num_labeled) for scale in both))
        batch.labeled_logits["student"] = scales = list(scales)
        targets = batch.target if isinstance(batch.target, list) else [batch.target]
        mirrored = [turn_and_flip(target, 0, axes) for target in targets]
        mirrored = mirrored if isinstance(batch.target, list) else mirrored[0]
        return {
            self.labeled_name(self.student): self.supervised_loss(scales, batch.target, batch),
            "mirrored": self.supervised_loss(list(of_mirrored), mirrored, batch),
            "consistency": mirror_consistency(
                scales[0], of_mirrored[0], axes, self.activation, mask=batch.labeled_inside
            ),
        }

    def weights(self) -> dict[str, float]:
        return {"mirrored": self.mirrored_weight, "consistency": self.consistency_weight}
