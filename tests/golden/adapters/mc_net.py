"""mc_net.npz: sharpening, and steps of MC-Net (two decoders) and MC-Net+ (three), in 2D and 3D."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mutual_consistency import mutual_consistency, sharpened
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.mc_net import binary_dice_loss, half_dice_loss, kl_of_probabilities

TRAINER = "nnUNetTrainerMCNet"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.mutual_consistency.mutual_consistency",
    "nnunet_ssl.losses.mutual_consistency.sharpened",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.mc_net.binary_dice_loss": "the supervised loss of the official 3D script; ours is nnU-Net's",
    "tests.golden.reference.mc_net.half_dice_loss": "the supervised loss of the official 2D script; ours is nnU-Net's",
    "tests.golden.reference.mc_net.kl_of_probabilities": "of the official library, not part of its loss",
}


def _step(file: GoldenFile, case: str) -> dict[str, Any]:
    logits = {i: file.tensor(f"{case}_logits{i}", requires_grad=True) for i in file.match(rf"{case}_logits(\d+)")}
    labeled = labeled_count(file, f"{case}_labels")
    target = file.tensor(f"{case}_labels")[:labeled]
    dice = {}
    for i, z in logits.items():
        p = probabilities(z[:labeled])
        dice[i] = half_dice_loss(p, target) if case.startswith("2d") else binary_dice_loss(p[:, 1], target == 1)
    consistency = mutual_consistency(list(logits.values()), file.constant("temperature", f"{case}_consistency"))
    weight = ssl4mis_weight(file, f"{case}_weight")
    supervised = weighted_sum(dice, dict.fromkeys(dice, 1.0))
    weights = {"supervised": file.constant("lamda", f"{case}_loss"), "consistency": weight}
    return {
        f"{case}_dice_sum": supervised,
        f"{case}_consistency": consistency,
        f"{case}_weight": weight,
        f"{case}_loss": weighted_sum({"supervised": supervised, "consistency": consistency}, weights),
        **{f"{case}_grad_consistency{i}": grad(consistency, z) for i, z in logits.items()},
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    p = file.tensor("sharp_in")
    produced = {
        f"sharp_{name}": sharpened(p, file.constant("temperature", f"sharp_{name}"))
        for name in file.match(r"sharp_(\dp\d+)")
    }
    for case in file.match(r"(\dd_n\d+)_labels"):
        produced |= _step(file, case)
    p, target = file.tensor("bin_p"), file.tensor("bin_t")
    return produced | {"bin_dice": binary_dice_loss(p, target), "kl": kl_of_probabilities(p, target)}
