"""upc.npz: a step of UPC in its three forms, its ramp and teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import symmetric_mse
from nnunet_ssl.losses.rectified import (
    confident_pseudo_label_loss,
    divergence_map,
    rectified_mean,
    rectified_pseudo_label_loss,
)
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import stored_ema_sequences
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.binary import foreground_dice_loss
from tests.golden.reference.supervised import cross_entropy

TRAINER = "nnUNetTrainerUPC"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.rectified.divergence_map",
    "nnunet_ssl.losses.rectified.rectified_mean",
    "nnunet_ssl.losses.rectified.rectified_pseudo_label_loss",
    "nnunet_ssl.patches.perturbations.add_clipped_noise",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "tests.golden.reference.binary.foreground_dice_loss": "part of the official supervised loss; our trainers have nnU-Net's",
    "nnunet_ssl.predictions.probabilities.probabilities": "for the official supervised loss",
    "nnunet_ssl.losses.consistency.symmetric_mse": "an ablation of the paper, on raw logits",
    "nnunet_ssl.losses.rectified.confident_pseudo_label_loss": "an ablation of the paper; `selection = 'threshold'` uses it",
    "tests.golden.reference.supervised.cross_entropy": "part of the official supervised loss; our trainers have nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

# numbers that stand in the specification or in the sidecar's `meaning` only
LABELED = 2
RAMP_INTERVAL = 150
SUPERVISED_WEIGHTS = {"ce": 0.5, "dice": 0.5}


def _ramp(file: GoldenFile, iteration: int) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup"))
    return sigmoid_rampup(progress, file.constant("consistency"))


def _consistency(file: GoldenFile, form: str, student: Tensor, teacher: Tensor) -> Tensor:
    if form == "rect":
        return rectified_pseudo_label_loss(student, teacher)
    if form == "fixthr":
        return confident_pseudo_label_loss(student, teacher, file.constant("threshold"))
    return symmetric_mse(student, teacher)


def _step(file: GoldenFile) -> dict[str, Any]:
    student, teacher = file.tensor("student_logits", requires_grad=True), file.tensor("teacher_logits")
    image, target = file.tensor("image"), file.tensor("label")
    labeled, target = student[:LABELED], target[:LABELED]
    ce = cross_entropy(labeled, target)
    dice = foreground_dice_loss(probabilities(labeled)[:, 1], target)
    supervised = weighted_sum({"ce": ce, "dice": dice}, SUPERVISED_WEIGHTS)
    weights = {"supervised": 1.0, "consistency": _ramp(file, file.constant("iter_num"))}
    divergence = divergence_map(student, teacher)
    noise = file.tensor("noise_normal")
    produced = {
        "student_input": add_clipped_noise(image, file.constant("ratio"), normal=noise),
        "teacher_input": image,
        "loss_seg": ce,
        "loss_seg_dice": dice,
        "supervised_loss": supervised,
        "consistency_weight": weights["consistency"],
        "kl_map": divergence[:, 0],
        "rect_on_base_map": rectified_mean(file.tensor("rect_base_map")[:, None], divergence),
    }
    for form in file.match(r"([a-z]+)_grad_consistency_wrt_student_logits"):
        consistency = _consistency(file, form, student, teacher)
        produced |= {
            f"{form}_consistency_loss": consistency,
            f"{form}_loss": weighted_sum({"supervised": supervised, "consistency": consistency}, weights),
            f"{form}_grad_consistency_wrt_student_logits": grad(consistency, student),
        }
    return produced


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _step(file)
    for form in file.match(r"mc2d_([a-z]+)_consistency_loss"):
        logits = file.tensor("mc2d_student_logits"), file.tensor("mc2d_teacher_logits")
        produced[f"mc2d_{form}_consistency_loss"] = _consistency(file, form, *logits)
    produced |= stored_ema_sequences(file)
    produced["ramp_weights_f64"] = [_ramp(file, iteration) for iteration in file.numbers("ramp_iters")]
    return produced
