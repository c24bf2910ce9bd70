"""mcf.npz: two steps of MCF on LA, one with the first network the better one, one with the second; its ramp."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mutual_correction import competing_label, disagreement, mutual_loss, rectification_loss
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.binary import foreground_dice_loss
from tests.golden.reference.supervised import cross_entropy

TRAINER = "nnUNetTrainerMCF"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.mutual_correction.disagreement",
    "nnunet_ssl.losses.mutual_correction.competing_label",
    "nnunet_ssl.losses.mutual_correction.mutual_loss",
    "nnunet_ssl.losses.mutual_correction.rectification_loss",
    "nnunet_ssl.losses.mutual_correction.sharpen",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "tests.golden.reference.binary.foreground_dice_loss": "part of the official supervised loss; ours is nnU-Net's",
    "nnunet_ssl.predictions.probabilities.probabilities": "for the official supervised loss",
    "tests.golden.reference.supervised.cross_entropy": "part of the official supervised loss; ours is nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

RAMP_INTERVAL = 150  # stands in the sidecar's `meaning` only


def _ramp(file: GoldenFile, iteration: int) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup"))
    return sigmoid_rampup(progress, file.constant("consistency"))


def _step(file: GoldenFile, case: str) -> dict[str, Any]:
    labeled = file.constant("labeled_bs")
    logits = {x: file.tensor(f"{case}_logits_{x}", requires_grad=True) for x in "vr"}
    target = file.tensor(f"{case}_label")[:labeled, None]
    differ = disagreement(logits["v"][:labeled], logits["r"][:labeled])
    entropy, dice, squared, supervised = {}, {}, {}, {}
    for x, of_network in logits.items():
        entropy[x] = cross_entropy(of_network[:labeled], target)
        dice[x] = foreground_dice_loss(probabilities(of_network[:labeled])[:, 1], target[:, 0])
        squared[x] = rectification_loss(of_network[:labeled], target, differ)
        terms = {"entropy": entropy[x], "dice": dice[x], "squared": squared[x]}
        weights = {"entropy": 1.0, "dice": 1.0, "squared": file.constant("rect_weight")}
        supervised[x] = weighted_sum(terms, weights)
    first_is_better = dice["v"].detach().lt(dice["r"].detach())
    unlabeled = {x: of_network[labeled:] for x, of_network in logits.items()}
    temperature, weight = file.constant("T_sharpen"), _ramp(file, file.constant("iter_num"))
    label = competing_label(unlabeled["v"], unlabeled["r"], first_is_better, temperature)
    mutual = {x: mutual_loss(unlabeled[x], label, first_is_better == (x == "v")) for x in "vr"}
    loss = {
        x: weighted_sum({"labeled": supervised[x], "mutual": mutual[x]}, {"labeled": 1.0, "mutual": weight})
        for x in "vr"
    }
    better, worse = ("v", "r") if first_is_better else ("r", "v")
    produced = {
        f"{case}_good_student": list("vr").index(better),
        f"{case}_diff_mask": differ[:, 0],
        f"{case}_pseudo_label": label,
        f"{case}_consistency_weight": weight,
        f"{case}_consistency_loss_of_worse": mutual[worse],
    }
    for x in "vr":
        produced |= {
            f"{case}_{x}_loss_seg": entropy[x],
            f"{case}_{x}_loss_seg_dice": dice[x],
            f"{case}_{x}_mse": squared[x],
            f"{case}_{x}_supervised_loss": supervised[x],
            f"{case}_{x}_loss": loss[x],
            f"{case}_grad_{x}_loss": grad(loss[x], logits[x]),
        }
    return produced


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced: dict[str, Any] = {"ramp_weights_f64": [_ramp(file, i) for i in file.numbers("ramp_iters")]}
    for case in file.match(r"(\w+)_logits_v"):
        produced |= _step(file, case)
    return produced
