"""cross_teaching.npz: a step of two networks that teach each other hard labels through a Dice loss, in 2D and 3D."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mixed_pseudo_labels import pseudo_dice
from nnunet_ssl.predictions.hard_labels import hard_labels
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerCrossTeaching"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.mixed_pseudo_labels.pseudo_dice",
    "nnunet_ssl.predictions.hard_labels.hard_labels",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    logits = [file.tensor(f"logits{dim}_{network}", requires_grad=True) for network in ("cnn", "vit")]
    labeled = labeled_count(file, f"labels{dim}")
    target, unlabeled = file.tensor(f"labels{dim}")[:labeled], [z[labeled:] for z in logits]
    supervised = {f"sup_loss{dim}_{i}": ce_dice_loss(z[:labeled], target) for i, z in enumerate(logits, start=1)}
    pseudo = {
        f"pseudo_loss{dim}_{i}": pseudo_dice(z, hard_labels(other))
        for i, (z, other) in enumerate(zip(unlabeled, unlabeled[::-1]), start=1)
    }
    weight = ssl4mis_weight(file, f"weight{dim}")
    loss = weighted_sum(supervised | pseudo, dict.fromkeys(supervised, 1.0) | dict.fromkeys(pseudo, weight))
    return {
        **supervised,
        **pseudo,
        f"weight{dim}": weight,
        f"loss{dim}": loss,
        f"grad{dim}_cnn": grad(loss, logits[0]),
        f"grad{dim}_vit": grad(loss, logits[1]),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"logits(\dd)_cnn"):
        produced |= _step(file, dim)
    return produced
