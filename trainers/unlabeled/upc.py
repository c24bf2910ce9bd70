"""UPC: uncertainty-aware pseudo-labels and consistency.

Lu, Yin, Fu, Yang, "Uncertainty-aware pseudo-label and consistency for semi-supervised medical image segmentation",
Biomedical Signal Processing and Control, 2023. Official code: AIforMS/UPC-Pytorch (train_LA_UPC.py).

The hard labels of a teacher, a moving average of the student, on clean patches supervise the student on noisy ones. Where
the two predictions diverge the pseudo-label counts less; the divergence itself is a consistency loss:

    L = L_sup(x_l, y) + w(t) [mean_v(CE(p, argmax q) exp(-KL(q || p))) + mean_v(KL(q || p))]
    p = student(x_l, x_u + noise), q = teacher(x_l, x_u),   x_l, x_u: labeled and unlabeled patches
    theta' <- a_t theta' + (1 - a_t) theta,    a_t = min(1 - 1/(t+1), ema_decay)
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Gradients go through the cross entropy, its weight and the divergence. As published, labeled patches take part in the
consistency, where a pseudo-label may contradict their label.

Differs from the official code: L_sup is nnU-Net's loss with deep supervision, about twice the official 0.5 (CE + Dice), so
the weight is twice the official one; the teacher sees patches without nnU-Net's intensity transforms, which the official code
does not have; labeled patches have no noise, with which the student never sees an image as it is and is far below nnU-Net
(docs/studies/methods.md; official: `noise_on_labeled = True`); consistency on the highest resolution only; padding of unlabeled
patches does not count; the ramp moves every iteration instead of every 150. Regions: one Bernoulli distribution each. No dropout
(official: p = 0.9 in V-Net). The default flags of the official script train a fixed threshold instead of the paper's weight
(`selection = "threshold"`, which gives each pseudo-label the weight 1 or 0 and drops the divergence). In the official 6000
iterations the EMA decay never reaches its limit: the teacher is the mean of all students so far. In short runs of nnU-Net this
mean lags behind its student by up to 20 Dice (docs/studies/history), so 100 horizons of the average fit into a run here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.engine.ema import decay_of_run
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Amount, Duration, Share, Stored, TeacherView, Weight
from nnunet_ssl.losses.rectified import confident_pseudo_label_loss, rectified_pseudo_label_loss
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerUPC(nnUNetTrainerSSL):
    """UPC: pseudo labels of a moving average of the student, weighted down where the two diverge.

    Passes per step (F+B on L+U, F on L+U): forward and backward on labeled and unlabeled patches in one batch, one forward
    pass of the teacher on all of them.
    """

    networks = ("student", "teacher")
    consistency_weight: Weight = 2.0  # official code: 1.0, see above
    rampup_fraction: Duration = 1.0  # of the run; official: all 6000 iterations
    ema_decay: Share | None = None  # None: by the length of the run, see above; official: 0.9999
    teacher_view: TeacherView = "weak"  # without nnU-Net's intensity transforms; or "student", the same patches
    noise_std: Amount = 0.2  # of z-scored intensities, clipped at twice this; as in the official code
    noise_on_labeled: bool = False  # official code: True, see above
    # the paper; or "threshold", the default flags of the official script
    selection: Literal["divergence", "threshold"] = "divergence"
    threshold: Share = 0.9  # of the teacher's probability, for selection = "threshold"; as in the official code
    inference: Stored = "student"  # as in the official code; or "teacher"
    term_patches = {"consistency": BOTH}

    def build_method(self) -> None:
        self.teacher = self.register_teacher(
            decay_of_run(self.total_steps) if self.ema_decay is None else self.ema_decay
        )

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def labeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        n = batch.num_labeled
        noisy = add_clipped_noise(batch.images, self.noise_std)
        scales = self.student(noisy if self.noise_on_labeled else torch.cat((batch.labeled, noisy[n:])))
        clean = torch.cat([views[self.teacher_view] for views in (batch.labeled_views, batch.views)])
        logits, teacher_logits = scales[0], self.teacher(clean)[0]
        counted = batch.counted()
        if self.selection == "threshold":
            consistency = confident_pseudo_label_loss(logits, teacher_logits, self.threshold, self.activation, counted)
        else:
            consistency = rectified_pseudo_label_loss(logits, teacher_logits, self.activation, counted)
        labeled = self.supervised_loss(batch.labeled_part(scales), batch.target, batch)
        return {"labeled": labeled, "consistency": consistency}

    def weights(self) -> dict[str, float]:
        return {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
