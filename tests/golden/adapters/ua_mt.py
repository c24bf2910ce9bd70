"""ua_mt.npz: steps of UA-MT in SSL4MIS (3D, and 2D with four classes) and in the original LA script, its ramp and threshold."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    select_certain,
)
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.binary import foreground_dice_loss
from tests.golden.reference.supervised import ce_dice_loss, cross_entropy, squared_dice_loss

TRAINER = "nnUNetTrainerUAMT"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.losses.selective.selective_mse",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
    "nnunet_ssl.predictions.uncertainty.max_entropy",
    "nnunet_ssl.predictions.uncertainty.mean_probabilities",
    "nnunet_ssl.predictions.uncertainty.predictive_entropy",
    "nnunet_ssl.predictions.uncertainty.ramped_threshold",
    "nnunet_ssl.predictions.uncertainty.select_certain",
)
REFERENCE_ONLY = {
    "tests.golden.reference.binary.foreground_dice_loss": "part of the LA script's supervised loss",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.supervised.cross_entropy": "part of the literature's supervised loss",
    "tests.golden.reference.supervised.squared_dice_loss": "part of the literature's supervised loss",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

# numbers that stand in the sidecar's `meaning` only; the official code has the two-class constants for any number of classes
RAMP_INTERVAL = 150
CLASSES = 2
START, END = 0.75, 1.0
HALF = 0.5


def _ramp(file: GoldenFile, iteration: int, key: str, length: str) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant(length, key))
    return sigmoid_rampup(progress, file.constant("consistency", key))


def _threshold(file: GoldenFile, iteration: int, key: str) -> float:
    progress = ramp_progress(iteration, file.constant("max_iterations", key))
    return ramped_threshold(progress, START, END, max_entropy(CLASSES))


def _step(file: GoldenFile, prefix: str) -> dict[str, Any]:
    student = file.tensor(f"{prefix}student_logits", requires_grad=True)
    teacher = file.tensor(f"{prefix}teacher_logits")
    labeled = len(student) - len(teacher)
    logits, target = student[:labeled], file.tensor(f"{prefix}label")[:labeled]
    iteration = file.constant("iter_num", f"{prefix}threshold_f64")

    mean = mean_probabilities(file.tensor(f"{prefix}mc_teacher_logits"), len(teacher))
    uncertainty = predictive_entropy(mean, eps=file.constant("eps_log", f"{prefix}uncertainty"))
    threshold = _threshold(file, iteration, f"{prefix}threshold_f64")
    mask = select_certain(uncertainty, threshold)
    consistency = selective_mse(student[labeled:], teacher, mask, channels=CLASSES)
    weight = _ramp(file, iteration, f"{prefix}consistency_weight", "consistency_rampup_ssl4mis")
    supervised = ce_dice_loss(logits, target)
    produced = {
        f"{prefix}mean_prob": mean,
        f"{prefix}uncertainty": uncertainty,
        f"{prefix}threshold_f64": threshold,
        f"{prefix}mask": mask,
        f"{prefix}loss_ce": cross_entropy(logits, target),
        f"{prefix}loss_dice": squared_dice_loss(probabilities(logits), target),
        f"{prefix}supervised_loss": supervised,
        f"{prefix}consistency_weight": weight,
        f"{prefix}consistency_loss": consistency,
        f"{prefix}loss": weighted_sum(
            {"supervised": supervised, "consistency": consistency}, {"supervised": 1.0, "consistency": weight}
        ),
        f"{prefix}grad_consistency_wrt_student_logits": grad(consistency, student),
    }
    if prefix:
        return produced

    # the same tensors through the LA script
    cross, dice = cross_entropy(logits, target), foreground_dice_loss(probabilities(logits)[:, 1], target)
    weight = _ramp(file, iteration, "la_consistency_weight", "consistency_rampup_la")
    terms = {"ce": cross, "dice": dice, "consistency": consistency}
    return produced | {
        "la_loss_seg": cross,
        "la_loss_seg_dice": dice,
        "la_supervised_loss": weighted_sum({"ce": cross, "dice": dice}, {"ce": HALF, "dice": HALF}),
        "la_consistency_weight": weight,
        "la_consistency_dist": consistency,
        "la_consistency_loss": weighted_sum({"consistency": consistency}, {"consistency": weight}),
        "la_loss": weighted_sum(terms, {"ce": HALF, "dice": HALF, "consistency": weight}),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for prefix in file.match(r"(|mc\dd_)student_logits"):
        produced |= _step(file, prefix)
    iterations = file.numbers("threshold_iters")
    produced["threshold_values_f64"] = [_threshold(file, i, "threshold_values_f64") for i in iterations]
    length = "consistency_rampup_la"
    produced["ramp_weights_f64"] = [_ramp(file, i, "ramp_weights_f64", length) for i in file.numbers("ramp_iters")]
    return produced
