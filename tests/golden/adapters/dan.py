"""dan.npz: the losses of a step in 2D and 3D, and outputs of both official discriminators."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.adversarial_origin import origin_loss, origins, passing_loss
from nnunet_ssl.losses.combine import weighted_sum
from tests.golden.adapters._common import discriminator_output, ssl4mis_weight
from tests.golden.framework import GoldenFile
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerDAN"
USES = (
    "nnunet_ssl.losses.adversarial_origin.origin_loss",
    "nnunet_ssl.losses.adversarial_origin.origins",
    "nnunet_ssl.losses.adversarial_origin.passing_loss",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.networks.map_discriminator.MapDiscriminator": "made when the training starts, and called in every step",
    "nnunet_ssl.ramps.stepwise_progress": "SSL4MIS' ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}

# windows of the official average pooling; the specification has them
WINDOWS = {"2d": (7, 7), "3d": (6, 6, 6)}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    labels = file.tensor(f"labels{dim}")
    passed, judged = file.tensor(f"d_logits_adv{dim}"), file.tensor(f"d_logits_all{dim}")
    # `meaning`: the unlabeled samples are those that have passed through the adversarial loss
    unlabeled = len(passed)
    labeled = len(labels) - unlabeled
    terms = {
        "supervised": ce_dice_loss(file.tensor(f"logits{dim}")[:labeled], labels[:labeled]),
        "adversarial": passing_loss(passed),
    }
    weight = ssl4mis_weight(file, f"weight{dim}")
    produced = {
        "dan_target": origins(labeled, unlabeled),
        "adv_loss": terms["adversarial"],
        "dan_loss": origin_loss(judged, labeled),
        "supervised": terms["supervised"],
        "weight": weight,
        "loss": weighted_sum(terms, {"supervised": 1.0, "adversarial": weight}),
    }
    return {f"{key}{dim}": value for key, value in produced.items()}


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced: dict[str, Any] = {}
    for dim in file.match(r"logits(\dd)"):
        produced |= _step(file, dim)
    for dim in file.match(r"disc(\dd)_map_low"):
        prefix = f"disc{dim}_"
        found = discriminator_output(file, f"{prefix}w_", prefix, WINDOWS[dim], activate_sum=dim == "3d")
        produced[f"{prefix}out"] = found
    return produced
