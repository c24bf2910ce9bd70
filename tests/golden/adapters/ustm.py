"""ustm.npz: the consistency of one step of USTM in WSL4MIS."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.patches.turns import turn_and_flip
from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    select_certain,
)
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad

TRAINER = "nnUNetTrainerScribbleUSTM"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.losses.selective.selective_mse",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
    "nnunet_ssl.patches.turns.turn_and_flip",
    "nnunet_ssl.predictions.uncertainty.max_entropy",
    "nnunet_ssl.predictions.uncertainty.mean_probabilities",
    "nnunet_ssl.predictions.uncertainty.predictive_entropy",
    "nnunet_ssl.predictions.uncertainty.ramped_threshold",
    "nnunet_ssl.predictions.uncertainty.select_certain",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 1000 iterations, ours every iteration",
}
# numbers that stand in the sidecar's `meaning` and in the specification only; the official code has the two-class constants
# for any number of classes
CLASSES = 2
START, END = 0.75, 1.0
RAMP_INTERVAL, RAMP_LENGTH = 1000, 60


def adapt(file: GoldenFile) -> dict[str, Any]:
    student = file.tensor("student_logits", requires_grad=True)
    turned = turn_and_flip(student, file.constant("rot_times"))
    teacher = file.tensor("teacher_logits_rot")
    uncertainty = predictive_entropy(mean_probabilities(file.tensor("teacher_mc_logits"), len(teacher)))
    iteration = file.constant("iter_num")
    progress = ramp_progress(iteration, file.constant("max_iterations"))
    threshold = ramped_threshold(progress, START, END, max_entropy(CLASSES))
    mask = select_certain(uncertainty, threshold)
    loss = selective_mse(turned, teacher, mask, channels=CLASSES)
    weight = sigmoid_rampup(stepwise_progress(iteration, RAMP_INTERVAL, RAMP_LENGTH))
    return {
        "uncertainty": uncertainty,
        "threshold": threshold,
        "mask": mask,
        "consistency_dist": softmax_mse(turned, teacher, reduction="none"),
        "consistency_loss": loss,
        "consistency_weight": weight,
        "loss": weighted_sum({"consistency": loss}, {"consistency": weight}),
        "consistency_loss_grad": grad(loss, student),
    }
