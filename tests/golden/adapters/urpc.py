"""urpc.npz: divergences, terms and a step of URPC, SSL4MIS in 2D and 3D; the logits are upsampled already."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.pyramid import pyramid_consistency, pyramid_divergences, pyramid_terms
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss, mean_loss

TRAINER = "nnUNetTrainerURPC"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.pyramid.pyramid_consistency",
    "nnunet_ssl.losses.pyramid.pyramid_divergences",
    "nnunet_ssl.losses.pyramid.pyramid_terms",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.supervised.mean_loss": "all scales count alike in the official loss; ours has nnU-Net's weights",
}


def _step(file: GoldenFile, dim: str) -> dict[str, Any]:
    scales = {
        s: file.tensor(f"logits{dim}_scale{s}", requires_grad=True) for s in file.match(rf"logits{dim}_scale(\d+)")
    }
    labeled = labeled_count(file, f"labels{dim}", f"variance{dim}_scale{min(scales)}")
    target, unlabeled = file.tensor(f"labels{dim}")[:labeled], [z[labeled:] for z in scales.values()]
    supervised = mean_loss([ce_dice_loss(z[:labeled], target) for z in scales.values()])
    consistency = pyramid_consistency(unlabeled)
    weight = ssl4mis_weight(file, f"weight{dim}")
    terms = {"supervised": supervised, "consistency": consistency}
    return {
        **{f"variance{dim}_scale{s}": d for s, d in zip(scales, pyramid_divergences(unlabeled))},
        **{f"term{dim}_scale{s}": term for s, term in zip(scales, pyramid_terms(unlabeled))},
        f"supervised{dim}": supervised,
        f"consistency{dim}": consistency,
        f"weight{dim}": weight,
        f"loss{dim}": weighted_sum(terms, {"supervised": 1.0, "consistency": weight}),
        **{f"grad_consistency{dim}_scale{s}": grad(consistency, z) for s, z in scales.items()},
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"labels(\dd)"):
        produced |= _step(file, dim)
    return produced
