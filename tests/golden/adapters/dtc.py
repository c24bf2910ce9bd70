"""dtc.npz: a step of DTC, its signed distance maps and its ramp."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.dual_task import dual_task_consistency, level_set_mse, level_set_to_mask
from nnunet_ssl.patches.distance_maps import signed_distance_maps
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.binary import binary_cross_entropy, foreground_dice_loss

TRAINER = "nnUNetTrainerDTC"
USES = (
    "nnunet_ssl.patches.distance_maps.signed_distance_maps",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.dual_task.dual_task_consistency",
    "nnunet_ssl.losses.dual_task.level_set_mse",
    "nnunet_ssl.losses.dual_task.level_set_to_mask",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "tests.golden.reference.binary.binary_cross_entropy": "official code logs it only; our trainers have nnU-Net's loss",
    "tests.golden.reference.binary.foreground_dice_loss": "the official supervised loss; our trainers have nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}
NOT_FOLLOWED = {
    "sdf_full_foreground": "0/0: the map of a mask that fills the patch is NaN; ours is 0 and does not count"
}

# stands in the sidecar's `meaning` only
RAMP_INTERVAL = 150


def _ramp(file: GoldenFile, iteration: int) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup"))
    return sigmoid_rampup(progress, file.constant("consistency"))


def adapt(file: GoldenFile) -> dict[str, Any]:
    labeled, k = file.constant("labeled_bs"), file.constant("k")
    logits = file.tensor("seg_logits", requires_grad=True)
    level_set = file.tensor("tanh_output", requires_grad=True)
    target = file.tensor("label")[:labeled]

    maps = signed_distance_maps(target[:, None])
    sdf = level_set_mse(level_set[:labeled], maps)
    dice = foreground_dice_loss(probabilities(logits[:labeled], "sigmoid")[:, 0], target)
    consistency = dual_task_consistency(level_set, logits, "sigmoid", k)
    weights = {"dice": 1.0, "sdf": file.constant("beta"), "consistency": _ramp(file, file.constant("iter_num"))}
    loss = weighted_sum({"dice": dice, "sdf": sdf, "consistency": consistency}, weights)
    return {
        "sdf_values": signed_distance_maps(file.tensor("sdf_masks")[:, None])[:, 0],
        "gt_dis": maps[:, 0],
        "dis_to_mask": level_set_to_mask(level_set, k),
        "loss_sdf": sdf,
        "loss_seg": binary_cross_entropy(logits[:labeled, 0], target),
        "loss_seg_dice": dice,
        "consistency_loss": consistency,
        "supervised_loss": weighted_sum({"dice": dice, "sdf": sdf}, weights),
        "consistency_weight": weights["consistency"],
        "loss": loss,
        "grad_loss_wrt_tanh": grad(loss, level_set),
        "grad_loss_wrt_seg_logits": grad(loss, logits),
        "grad_consistency_wrt_tanh": grad(consistency, level_set),
        "grad_consistency_wrt_seg_logits": grad(consistency, logits),
        "ramp_weights_f64": [_ramp(file, iteration) for iteration in file.numbers("ramp_iters")],
    }
