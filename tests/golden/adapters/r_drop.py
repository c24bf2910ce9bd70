"""r_drop.npz: the divergence of R-Drop, as SSL4MIS trains it in 2D and 3D, over the classes, and as published for tokens."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import symmetric_kl
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.regularized_dropout import last_axis_kl, summed_kl
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerRDrop"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.consistency.symmetric_kl",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.regularized_dropout.last_axis_kl": "a defect of SSL4MIS: distributions along the image's width",
    "tests.golden.reference.regularized_dropout.summed_kl": "the published sum over tokens; for voxels it is a mean",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    logits = [file.tensor(f"logits{dim}_{i}", requires_grad=True) for i in (1, 2)]
    labeled = labeled_count(file, f"labels{dim}")
    target, unlabeled = file.tensor(f"labels{dim}")[:labeled], [z[labeled:] for z in logits]
    weight = ssl4mis_weight(file, f"loss{dim}")
    last_axis, over_classes = last_axis_kl(*unlabeled), symmetric_kl(*unlabeled)
    terms = {str(i): ce_dice_loss(z[:labeled], target) for i, z in enumerate(logits)}
    weights = dict.fromkeys(terms, 1.0)
    return {
        f"kl_lastaxis{dim}": last_axis,
        f"kl_class{dim}": over_classes,
        f"weight{dim}": weight,
        f"loss{dim}": weighted_sum(terms | {"kl": last_axis}, weights | {"kl": weight}),
        f"grad_class{dim}_1": grad(over_classes, logits[0]),
        f"grad_class{dim}_2": grad(over_classes, logits[1]),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"logits(\dd)_1"):
        produced |= _step(file, dim)
    tokens = file.tensor("off_p"), file.tensor("off_q")
    return produced | {
        "off_kl_sum": summed_kl(*tokens),
        "off_kl_sum_padded": summed_kl(*tokens, file.tensor("off_pad")),
    }
