"""USTM: uncertainty-aware self-ensembling and transformation-consistent model.

Liu et al., "Weakly Supervised Segmentation of COVID19 Infection with Scribble Annotation on CT Images", Pattern Recognition 2022,
doi 10.1016/j.patcog.2021.108341. The authors' code is not public; the form is that of HiLab-git/WSL4MIS
(train_weakly_supervised_ustm_2D.py).

nnU-Net's loss on the scribbles, and UA-MT's consistency on the same patches, the teacher's rotated by k times 90 degrees in
the image plane:

    L    = L_sup(x, y) + w(t) sum_v M_v |R_k p_student(x)_v - p_teacher(R_k x + noise)_v|^2 / (C sum_v M_v)
    M_v  = [ -sum_c mu_cv ln mu_cv < H(t) ],    mu = mean over T passes of p_teacher(R_k x + noise, dropout)
    H(t) = (0.75 + 0.25 exp(-5 (1 - progress)^2)) ln C,    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Differs from WSL4MIS: ln C and C instead of ln 2 and 2, as in `nnUNetTrainerUAMT` (`two_class_constants = True`: the released
numbers); rotations by 180 degrees only where patch or spacing differ along the last two axes; in 3D in the plane of these two
axes; dropout in the teacher's T passes at two places, not in every encoder stage and not in the student (`nnUNetTrainerUAMT` says
why; `train_with_dropout = True`). L_sup is nnU-Net's cross entropy + Dice on annotated voxels (official: cross entropy alone),
the weight is as published. The teacher sees patches without nnU-Net's intensity transforms, which the official code does not
have. Padding does not count; the ramp moves every iteration instead of every 1000; the teacher is validated and stored (official:
the student; `inference = "student"`). PyMIC's version, whose teacher never follows its student, is not followed.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.features import refuse_without_mirroring_in_plane
from nnunet_ssl.engine.value_ranges import Weight
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip
from nnunet_ssl.trainers import nnUNetTrainerUAMT
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerScribbleUSTM(nnUNetTrainerWeak, nnUNetTrainerUAMT):
    """USTM: sparse labels, and UA-MT's consistency under rotations of the same patches by 90 degrees.

    Passes per step (F+B, 9 F): nnU-Net's forward and backward, 1 + `passes` forward passes of the teacher on the same
    patches.
    """

    consistency_weight: Weight = 1.0  # as in the official code, see above

    def check_supported(self) -> None:
        super().check_supported()
        refuse_without_mirroring_in_plane(self, "the teacher's pass")

    def labeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def weak_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        step = 1 if quarter_turns_fit(self.spacing, logits[0].shape) else 2
        turns = step * np.random.randint(4 // step)
        seen = batch.labeled_views[self.teacher_view]
        turned = [turn_and_flip(x, turns) for x in (logits[0], seen, batch.labeled_inside)]
        return {"consistency": self.consistency(*turned)}
