"""deep_co_training.npz: SSL4MIS' form, one network and a rotated second view, for each number of quarter turns."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import mutual_mse
from nnunet_ssl.patches.turns import turn_and_flip
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerDeepCoTraining"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
_ROTATION = "called with `views = 'rotation'`, which is not the default; test_deep_co_training.py sees it called"
REFERENCE_ONLY = {
    "nnunet_ssl.losses.consistency.mutual_mse": _ROTATION,
    "nnunet_ssl.patches.turns.turn_and_flip": _ROTATION,
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}

RAMP_LENGTH = 200  # stands in the specification only


def _step(file: GoldenFile, turns: int) -> dict[str, Any]:
    logits = file.tensor(f"logits_r{turns}", requires_grad=True)
    rotated = file.tensor(f"rot_logits_r{turns}", requires_grad=True)
    labeled = len(logits) - len(rotated)
    consistency = mutual_mse(turn_and_flip(probabilities(logits[labeled:]), turns), probabilities(rotated))
    supervised = ce_dice_loss(logits[:labeled], file.tensor(f"labels_r{turns}")[:labeled])
    weight = ssl4mis_weight(file, f"loss_r{turns}", rampup=RAMP_LENGTH)
    terms = {"supervised": supervised, "consistency": consistency}
    return {
        f"consistency_r{turns}": consistency,
        f"loss_r{turns}": weighted_sum(terms, {"supervised": 1.0, "consistency": weight}),
        f"grad_r{turns}": grad(consistency, logits),
        f"grad_rot_r{turns}": grad(consistency, rotated),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {"rot_input_out": turn_and_flip(file.tensor("rot_input_in"), 1)}  # `meaning`: one quarter turn
    for turns in map(int, file.match(r"logits_r(\d)")):
        produced |= _step(file, turns)
    return produced
