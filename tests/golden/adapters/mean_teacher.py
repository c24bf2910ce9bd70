"""mean_teacher.npz: steps of SSL4MIS' Mean Teacher in 3D and 2D, its ramp, learning rate and teacher."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.patches.perturbations import add_clipped_noise
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import delayed, poly_lr, ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import stored_ema_sequences
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss, cross_entropy, squared_dice_loss

TRAINER = "nnUNetTrainerMeanTeacher"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.patches.perturbations.add_clipped_noise",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.supervised.cross_entropy": "part of the literature's supervised loss",
    "tests.golden.reference.supervised.squared_dice_loss": "part of the literature's supervised loss",
    "nnunet_ssl.ramps.delayed": "only the official 2D script starts the consistency late",
    "nnunet_ssl.ramps.poly_lr": "nnU-Net has its own learning rate schedule",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

# numbers that stand in the sidecar's `meaning` only
RAMP_INTERVAL = 150
ITERATIONS_2D = {"before1000": 900, "after1000": 7500}
CONSISTENCY_START_2D = 1000
POLY_LR, POLY_LENGTH = 0.01, 30000


def _ramp(file: GoldenFile, iteration: int, key: str) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup", key))
    return sigmoid_rampup(progress, file.constant("consistency", key))


def _step(file: GoldenFile, prefix: str, stage: str, iteration: int, start: int) -> dict[str, Any]:
    """The arrays of one training step. `prefix` of the inputs; the outputs have `stage` behind it."""
    student = file.tensor(f"{prefix}student_logits", requires_grad=True)
    teacher = file.tensor(f"{prefix}teacher_logits")
    labeled = len(student) - len(teacher)
    logits, target = student[:labeled], file.tensor(f"{prefix}label")[:labeled]

    supervised = ce_dice_loss(logits, target)
    weight = _ramp(file, iteration, f"{prefix}{stage}consistency_weight")
    mse = softmax_mse(student[labeled:], teacher)
    consistency = weighted_sum({"consistency": mse}, {"consistency": delayed(1.0, iteration, start)})
    terms = {"supervised": supervised, "consistency": consistency}
    loss = weighted_sum(terms, {"supervised": 1.0, "consistency": weight})
    return {
        f"{prefix}{stage}loss_ce": cross_entropy(logits, target),
        f"{prefix}{stage}loss_dice": squared_dice_loss(probabilities(logits), target),
        f"{prefix}{stage}supervised_loss": supervised,
        f"{prefix}{stage}consistency_weight": weight,
        f"{prefix}{stage}consistency_loss": consistency,
        f"{prefix}{stage}loss": loss,
        f"{prefix}{stage}grad_loss_wrt_student_logits": grad(loss, student),
        f"{prefix}{stage}grad_consistency_wrt_student_logits": grad(consistency, student),
        f"{prefix}{stage}teacher_input": add_clipped_noise(
            file.tensor(f"{prefix}image")[labeled:],
            file.constant("noise_sigma", f"{prefix}{stage}teacher_input"),
            file.constant("noise_clip", f"{prefix}{stage}teacher_input"),
            normal=file.tensor(f"{prefix}noise_normal"),
        ),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _step(file, "", "", file.constant("iter_num"), start=0)
    for stage in file.match(r"mc2d_([a-z]+\d+)_loss"):
        produced |= _step(file, "mc2d_", f"{stage}_", ITERATIONS_2D[stage], CONSISTENCY_START_2D)
    produced |= stored_ema_sequences(file)
    produced["ramp_weights_f64"] = [_ramp(file, i, "ramp_weights_f64") for i in file.numbers("ramp_iters")]
    produced["poly_lr_f64"] = [poly_lr(POLY_LR, ramp_progress(i, POLY_LENGTH)) for i in file.numbers("poly_iters")]
    return produced
