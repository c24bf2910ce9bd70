"""ssl4mis_common.npz: ramps, learning rate, teacher and losses that the scripts of SSL4MIS share."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ssl.losses.consistency import softmax_kl, softmax_mse, symmetric_mse
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import cosine_rampdown, linear_rampup, poly_lr, ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import ema_sequence
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.consistency import softmax_dice
from tests.golden.reference.supervised import cross_entropy, squared_dice_loss

TRAINER = "nnUNetTrainerMeanTeacher"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "tests.golden.reference.consistency.softmax_dice": "an alternative to the squared difference; Mean Teacher has the latter",
    "nnunet_ssl.losses.consistency.softmax_kl": "an alternative to the squared difference; Mean Teacher has the latter",
    "nnunet_ssl.losses.consistency.symmetric_mse": "an alternative to the squared difference of probabilities",
    "tests.golden.reference.supervised.cross_entropy": "part of the literature's supervised loss",
    "tests.golden.reference.supervised.squared_dice_loss": "part of the literature's supervised loss",
    "nnunet_ssl.ramps.cosine_rampdown": "a ramp of the shared library that Mean Teacher does not have",
    "nnunet_ssl.ramps.linear_rampup": "a ramp of the shared library that Mean Teacher does not have",
    "nnunet_ssl.ramps.poly_lr": "nnU-Net has its own learning rate schedule",
    "nnunet_ssl.ramps.ramp_progress": "our progress is the fraction of the training done, known to the engine",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

# numbers that stand in the sidecar's `meaning` only
RAMP_INTERVAL = 150
LATE_EMA_DECAY = 0.99


def _ramps(file: GoldenFile, group: str) -> dict[str, Any]:
    length = file.number(f"ramp_length_{group}")
    up = [ramp_progress(x, length) for x in file.numbers(f"ramp_x_{group}")]
    down = [ramp_progress(x, length) for x in file.numbers(f"cosine_x_{group}")]
    return {
        f"sigmoid_rampup_{group}": [sigmoid_rampup(progress) for progress in up],
        f"linear_rampup_{group}": [linear_rampup(progress) for progress in up],
        f"cosine_rampdown_{group}": [cosine_rampdown(progress) for progress in down],
    }


def _losses(file: GoldenFile, dim: str) -> dict[str, Any]:
    a, b = file.tensor(f"logits{dim}", requires_grad=True), file.tensor(f"logits{dim}_b")
    target = file.tensor(f"labels{dim}")
    dice = squared_dice_loss(probabilities(a), target, file.constant("smooth", f"dice_loss{dim}"))
    return {
        f"dice_loss{dim}": dice,
        f"dice_loss{dim}_grad": grad(dice, a),
        f"ce_loss{dim}": cross_entropy(a, target),
        f"softmax_mse{dim}": softmax_mse(a, b, reduction="none"),
        f"sigmoid_mse{dim}": softmax_mse(a, b, activation="sigmoid", reduction="none"),
        f"softmax_kl{dim}": softmax_kl(a, b),
        f"softmax_dice{dim}": softmax_dice(a, b),
        f"symmetric_mse{dim}": symmetric_mse(a, b),
    }


def _weight(file: GoldenFile, iteration: int) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup", "consistency_weight"))
    return sigmoid_rampup(progress, file.constant("consistency", "consistency_weight"))


def _learning_rate(file: GoldenFile, iteration: int) -> float:
    progress = ramp_progress(iteration, file.constant("max_iterations", "poly_lr"))
    return poly_lr(file.constant("base_lr", "poly_lr"), progress)


def _ema(file: GoldenFile) -> dict[str, Any]:
    init, student = {"w": file.tensor("ema_init")}, file.tensor("ema_student")
    decay = file.constant("ema_decay", "ema_teacher")
    # the late updates do not follow each other: each starts from ema_init with the first student
    late = [
        ema_sequence(init, {"w": student[:1]}, [step], LATE_EMA_DECAY)["w"][0]
        for step in file.numbers("ema_late_steps")
    ]
    return {
        "ema_teacher": ema_sequence(init, {"w": student}, range(len(student)), decay)["w"],
        "ema_teacher_late": torch.stack(late),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _ema(file)
    for group in file.match(r"ramp_length_(\w+)"):
        produced |= _ramps(file, group)
    for dim in file.match(r"logits(\dd)"):
        produced |= _losses(file, dim)
    produced["consistency_weight"] = [_weight(file, iteration) for iteration in file.numbers("iters")]
    produced["poly_lr"] = [_learning_rate(file, iteration) for iteration in file.numbers("poly_lr_iters")]
    return produced
