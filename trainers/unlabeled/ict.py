"""ICT: interpolation consistency training.

Verma, Kawaguchi, Lamb, Kannala, Solin, Bengio, Lopez-Paz, "Interpolation Consistency Training for Semi-Supervised Learning", IJCAI
2019, arXiv:1903.03825, vikasverma1077/ICT. Segmentation form: HiLab-git/SSL4MIS
(train_interpolation_consistency_training_2D.py, ..._3D.py).

The prediction for a mix of two unlabeled patches is asked to be the mix of a teacher's predictions for them:

    L = L_sup(x, y) + w(t) mean_{n,c,v} (p_student(m(u, u')) - m(p_teacher(u), p_teacher(u')))^2
    m(a, b) = (1 - lambda) a + lambda b,    lambda ~ Beta(alpha, alpha) for each pair
    theta' <- a_t theta' + (1 - a_t) theta,    a_t = min(1 - 1/(t+1), ema_decay)
    w(t) = consistency_weight exp(-5 (1 - progress / rampup_fraction)^2)

Pairs are the two halves of the unlabeled patches, so there are half as many mixes (of an odd number the first patch is in two
of them). With alpha = 0.2 most mixes are mild: lambda is within 0.05 of 0 or 1 in 58 % of the draws.

Differs from SSL4MIS: the weight is that of `nnUNetTrainerMeanTeacher`, for its reason: at the official 0.1, 0.2 beside
nnU-Net's loss, the gradient of a squared difference of probabilities trains nothing; the teacher sees u without nnU-Net's
intensity transforms, which the official code does not have (`teacher_view = "student"`: with them, as the student);
consistency on the highest resolution only; what is padding in either patch does not count; the ramp moves every iteration
instead of every 150; the teacher is in evaluation mode and it is the teacher that is validated and stored (official: the
student; `inference = "student"`). Regions: sigmoid probabilities. No mixup of labeled patches, which the published classifier
has.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.dataloading.views import student_and_teacher
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Duration, Positive, Share, Stored, TeacherView, Weight
from nnunet_ssl.losses.consistency import symmetric_mse
from nnunet_ssl.patches.mixing import blend, draw_mix_factors, halves
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramped_weight
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerICT(nnUNetTrainerSSL):
    """ICT: the prediction for a mix of two unlabeled patches is the mix of the teacher's predictions.

    Passes per step (F+B on L+U/2, F on U): forward and backward on labeled patches and half as many mixes as unlabeled
    patches in one batch, one forward pass of the teacher on the unlabeled ones.
    """

    networks = ("student", "teacher")
    consistency_weight: Weight = 5.0  # official code: 0.1, see above
    rampup_fraction: Duration = 1.0  # of the run; official: 30000 of 30000 iterations
    alpha: Positive = 0.2  # of the Beta distribution of the shares; as in the official code
    ema_decay: Share = 0.99  # as in SSL4MIS; vikasverma1077/ICT: 0.999
    teacher_view: TeacherView = "weak"  # as in `nnUNetTrainerMeanTeacher`; official: "student", the same patches
    inference: Stored = "teacher"  # or "student"

    def build_method(self) -> None:
        refuse_single_patches(self)
        self.teacher = self.register_teacher(self.ema_decay)

    def unlabeled_views(self, intensity):
        return student_and_teacher(intensity, self.teacher_view)

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        first, second = halves(batch.unlabeled)
        shares = draw_mix_factors(len(first), first.ndim - 2, self.alpha).to(first.device, non_blocking=True)
        p, q = halves(probabilities(self.teacher(batch.views[self.teacher_view])[0], self.activation))
        self.target = blend(q, p, shares)
        inside, other = halves(batch.inside)
        batch.unlabeled, batch.inside = blend(second, first, shares), inside & other
        return super().terms(batch)

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        return {"consistency": symmetric_mse(probabilities(logits[0], self.activation), self.target, batch.inside)}

    def weights(self) -> dict[str, float]:
        return {"consistency": ramped_weight(self.consistency_weight, self.progress, self.rampup_fraction)}

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
