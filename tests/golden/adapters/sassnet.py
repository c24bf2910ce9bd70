"""sassnet.npz: signed distance maps, the losses of a step, and the output of the official discriminator."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.adversarial_origin import origin_loss, passing_loss
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.dual_task import level_set_mse
from nnunet_ssl.patches.distance_maps import signed_distance_maps
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import discriminator_output, ssl4mis_weight
from tests.golden.framework import GoldenFile
from tests.golden.reference.binary import binary_cross_entropy, foreground_dice_loss

TRAINER = "nnUNetTrainerSASSNet"
USES = (
    "nnunet_ssl.losses.adversarial_origin.origin_loss",
    "nnunet_ssl.losses.adversarial_origin.origins",
    "nnunet_ssl.losses.adversarial_origin.passing_loss",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.dual_task.level_set_mse",
    "nnunet_ssl.patches.distance_maps.signed_distance_maps",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.networks.map_discriminator.MapDiscriminator": "made when the training starts, and called in every step",
    "nnunet_ssl.predictions.probabilities.probabilities": "for the official Dice; the discriminator sees level sets",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.binary.binary_cross_entropy": "official code logs it only; our trainers have nnU-Net's loss",
    "tests.golden.reference.binary.foreground_dice_loss": "the official supervised loss; our trainers have nnU-Net's",
}
_FULL = "0/0: the map of a mask that fills the patch is NaN; ours is 0 and does not count"
NOT_FOLLOWED = {"sdf_full_isfinite": _FULL, "sdf_full_boundary_zero": _FULL}

# of the official average pooling; the specification has it
WINDOW = (7, 7, 5)


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits, level_set = file.tensor("step_logits"), file.tensor("step_tanh")
    passed = file.tensor("step_d_adv")
    labeled = len(logits) - len(passed)
    target = file.tensor("step_labels")[:labeled]
    maps = signed_distance_maps(target[:, None])
    terms = {
        "dice": foreground_dice_loss(probabilities(logits[:labeled], "sigmoid")[:, 0], target),
        "sdf": level_set_mse(level_set[:labeled], maps),
        "adversarial": passing_loss(passed),
    }
    weights = {
        "dice": 1.0,
        "sdf": file.constant("beta", "step_loss"),
        "adversarial": ssl4mis_weight(file, "step_weight"),
    }
    supervised = {name: terms[name] for name in ("dice", "sdf")}
    return {
        **{
            f"sdf{name}": signed_distance_maps(file.tensor(f"mask{name}")[:, None])[:, 0]
            for name in file.match(r"mask(\dd|_small)")
        },
        "step_gt_sdf": maps[:, 0],
        "step_loss_sdf": terms["sdf"],
        "step_loss_seg": binary_cross_entropy(logits[:labeled, 0], target),
        "step_loss_seg_dice": terms["dice"],
        "step_supervised_loss": weighted_sum(supervised, weights),
        "step_loss_adv": terms["adversarial"],
        "step_loss": weighted_sum(terms, weights),
        "step_D_loss": origin_loss(file.tensor("step_d_all"), labeled),
        "step_weight": weights["adversarial"],
        "disc_out": discriminator_output(file, "disc_w_", "disc_", WINDOW, activate_sum=True),
    }
