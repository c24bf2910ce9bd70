"""Mean Teacher, in the form used for medical segmentation.

Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780. Segmentation form:
HiLab-git/SSL4MIS (train_mean_teacher_2D.py, train_mean_teacher_3D.py).

On unlabeled patches the student has to reproduce what an exponential moving average of itself, the teacher, predicts for a
noisy copy of the same patch:

    L = L_sup(x, y) + w(t) mean_{n,c,v} (p_student(u') - p_teacher(u + noise))^2
    theta' <- a_t theta' + (1 - a_t) theta,    a_t = min(1 - 1/(t+1), ema_decay)
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Differs from SSL4MIS: the weight: L_sup is nnU-Net's loss with deep supervision, about twice the official 0.5 (CE + Dice), so
that the official weight is 0.2, at which the term's gradient at the segmentation layers is 1 % of the labeled loss's (ACDC in
2D, 3 labeled patients, after 4000 steps) and trains nothing; u' has nnU-Net's intensity transforms, u their geometry only
(official: no such transforms, u' = u; with them in both, the Dice was 2.7 below nnU-Net's there, now it is equal, one seed each:
docs/studies; `teacher_view = "student"`); consistency on the highest resolution only; padding does not
count; the ramp moves every iteration instead of every 150; the teacher is in evaluation mode (nnU-Net's networks have instance
norm and no dropout, so this changes nothing; buffers, if there are any, are copied from the student) and it is the teacher that
is validated and stored (official: the student; `inference = "student"`). Region-based training uses sigmoid probabilities.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Amount, Duration, Share, Stored, TeacherView, Weight
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerMeanTeacher(nnUNetTrainerSSL):
    """Mean Teacher: consistency with a moving average of the student on noisy unlabeled patches.

    Passes per step (F+B on L+U, F on U): forward and backward on labeled and unlabeled patches in one batch, one forward pass
    of the teacher on the unlabeled ones.
    """

    networks = ("student", "teacher")
    consistency_weight: Weight = (
        5.0  # official code: 0.1, which is 0.2 beside nnU-Net's loss and has no effect, see above
    )
    rampup_fraction: Duration = 1.0  # of the run; official: all 30000 iterations
    ema_decay: Share = 0.99  # as in the official code
    teacher_view: TeacherView = "weak"  # without nnU-Net's intensity transforms; official: "student", the same patch
    noise_std: Amount = 0.1  # of z-scored intensities, clipped at twice this; as in the official code
    inference: Stored = "teacher"  # or "student"

    def build_method(self) -> None:
        self.teacher = self.register_teacher(self.ema_decay)

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        teacher_logits = self.teacher(add_clipped_noise(batch.views[self.teacher_view], self.noise_std))
        return {"consistency": softmax_mse(logits[0], teacher_logits[0], self.activation, mask=batch.inside)}

    def weights(self) -> dict[str, float]:
        return {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
