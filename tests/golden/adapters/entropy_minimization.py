"""entropy_minimization.npz: the entropies of SSL4MIS and ADVENT, and a step of SSL4MIS' scripts in 2D and 3D."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import predictive_entropy, relative_entropy
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.entropy import weighted_self_information
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerEntropyMinimization"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.entropy.entropy_loss",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.predictions.uncertainty.predictive_entropy",
    "nnunet_ssl.predictions.uncertainty.relative_entropy",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.entropy.weighted_self_information": "what ADVENT's other branch, a discriminator, sees",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    logits = file.tensor(f"logits{dim}", requires_grad=True)
    p = probabilities(logits)
    eps, channels = (file.constant(name, f"entropy_loss{dim}") for name in ("eps", "C"))
    labeled = labeled_count(file, f"labels{dim}")
    supervised = ce_dice_loss(logits[:labeled], file.tensor(f"labels{dim}")[:labeled])
    consistency = entropy_loss(p, eps=eps, channels=file.constant("C_in_script", f"step{dim}_consistency"))
    weight = ssl4mis_weight(file, f"step{dim}_weight")
    terms = {"supervised": supervised, "entropy": consistency}
    loss = weighted_sum(terms, {"supervised": 1.0, "entropy": weight})
    return {
        f"entropy_loss{dim}": entropy_loss(p, eps=eps, channels=channels),
        f"entropy_loss_map{dim}": relative_entropy(p, eps=eps, channels=file.constant("C", f"entropy_loss_map{dim}")),
        f"entropy_minmization{dim}": entropy_loss(p, relative=False, eps=eps),
        f"entropy_map{dim}": predictive_entropy(p, eps=eps),
        f"step{dim}_supervised": supervised,
        f"step{dim}_consistency": consistency,
        f"step{dim}_weight": weight,
        f"step{dim}_loss": loss,
        f"step{dim}_grad": grad(loss, logits),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"logits(\dd)"):
        produced |= _step(file, dim)
    p = probabilities(file.tensor("logits2d"))
    eps = file.constant("eps", "advent_entropy_loss")
    return produced | {
        "advent_entropy_loss": entropy_loss(p, eps=eps),
        "advent_prob_2_entropy": weighted_self_information(p, eps),
    }
