"""nnU-Net, and the moving average of its weights as the network that is stored.

Polyak & Juditsky, SIAM J. Control Optim. 1992; as a teacher: Tarvainen & Valpola, NeurIPS 2017.

    theta'_t = a_t theta'_{t-1} + (1 - a_t) theta_t,    a_t = min(1 - 1/(t+1), 1 - 1/H),    H = clip(T / horizons, 20, 1000)

theta: weights after step t of T. Training is nnU-Net's, bit for bit; only what is validated, stored and predicted with is another
network. No unlabeled images are used. It is the control of all methods that store a moving average: what it gains is not due to
unlabeled images.
"""

from __future__ import annotations

from nnunet_ssl.engine.ema import decay_of_run
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.value_ranges import Count, Stored
from nnunet_ssl.trainer import nnUNetTrainerSSL


class nnUNetTrainerEMA(nnUNetTrainerSSL):
    """nnU-Net that stores the moving average of its weights.

    Passes per step: nnU-Net's.
    """

    networks = ("student", "teacher")
    needs_unlabeled = False

    horizons: Count = 100  # horizons H of the average that fit into the run
    inference: Stored = "teacher"  # or "student", which is nnU-Net's own network

    def build_method(self) -> None:
        self.teacher = self.register_teacher(decay_of_run(self.total_steps, self.horizons))

    def inference_network(self) -> NetworkMember:
        return self.teacher_or_student(self.teacher, self.inference)
