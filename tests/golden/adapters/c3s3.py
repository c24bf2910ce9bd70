"""c3s3.npz: MEDL's fusion and weight of voxels, which are options of MCF, and steps of C3S3, which no trainer follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mutual_correction import sharpen
from nnunet_ssl.predictions.evidence import (
    asymptotic_weights,
    beliefs,
    believed_labels,
    fused_beliefs,
    uncertainty_ranks,
)
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import RAMP_INTERVAL
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.binary import foreground_dice_loss
from tests.golden.reference.boundary_contrast import boundary_contrast, cosine_loss, index_of_best, squared_error
from tests.golden.reference.supervised import cross_entropy

TRAINER = "nnUNetTrainerMCF"
_C3S3 = "a loss of C3S3, which no trainer has"
_MEDL = "called with `fusion = True`, which is not the default; test_mcf.py sees it called"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.mutual_correction.sharpen",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.evidence.asymptotic_weights": _MEDL,
    "nnunet_ssl.predictions.evidence.beliefs": _MEDL,
    "nnunet_ssl.predictions.evidence.believed_labels": _MEDL,
    "nnunet_ssl.predictions.evidence.fused_beliefs": _MEDL,
    "nnunet_ssl.predictions.evidence.uncertainty_ranks": _MEDL,
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.binary.foreground_dice_loss": "part of the official supervised loss; ours is nnU-Net's",
    "tests.golden.reference.boundary_contrast.boundary_contrast": _C3S3,
    "tests.golden.reference.boundary_contrast.cosine_loss": _C3S3,
    "tests.golden.reference.boundary_contrast.index_of_best": _C3S3,
    "tests.golden.reference.boundary_contrast.squared_error": _C3S3,
    "tests.golden.reference.supervised.cross_entropy": "part of the official supervised loss; ours is nnU-Net's",
}

# which views of A and B a contrast is between; the halves stand in the specification
PAIRS = {1: ("A1", "B1"), 2: ("A2", "B2"), 3: ("A1", "B2"), 4: ("A2", "B1")}
HALF = 0.5
LAST_AXIS, CLASSES = -1, 1


def _weight(file: GoldenFile, case: str, iteration: int) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup", case))
    return sigmoid_rampup(progress, file.constant("consistency", case))


def _step(file: GoldenFile, case: str) -> dict[str, Any]:
    views = [f"{network}{view}" for network in "AB" for view in (1, 2)]
    logits = {v: file.tensor(f"{case}/in/{v}", requires_grad=True) for v in views}
    features = {v: file.tensor(f"{case}/in/f{v}", requires_grad=True) for v in views}
    labeled, alpha = file.constant("labeled_bs", case), file.constant("alpha", case)
    temperature, tau = (file.constant(f"{name}", case) for name in ("temperature_sharpening", "tau_contrast"))
    targets = {v: file.tensor(f"{case}/in/label{v[1]}")[:labeled] for v in views}
    parts = {}
    for v in views:
        own = logits[v][:labeled]
        parts[v] = cross_entropy(own, targets[v]), foreground_dice_loss(probabilities(own)[:, 1], targets[v])
    contrasts = {
        i: boundary_contrast(features[a], features[b], logits[a], logits[b], tau) for i, (a, b) in PAIRS.items()
    }
    supervised, ranks, cosines = {}, {}, {}
    for n in "AB":
        terms = {f"{kind}{view}": parts[f"{n}{view}"][kind] for kind in (0, 1) for view in (1, 2)}
        supervised[n] = weighted_sum(terms, dict.fromkeys(terms, HALF))
        ranks[n] = weighted_sum(terms, {key: alpha if key[0] == "0" else 1 - alpha for key in terms})
        cosines[n] = cosine_loss(logits[f"{n}1"], logits[f"{n}2"], LAST_AXIS)
    winner = index_of_best([ranks["A"], ranks["B"]])
    best, other = "AB"[winner], "BA"[winner]
    sharpened = {view: sharpen(logits[f"{best}{view}"][labeled:], temperature) for view in (1, 2)}
    errors = {
        view: squared_error(probabilities(logits[f"{other}{view}"][labeled:]), sharpened[view]) for view in (1, 2)
    }
    consistency = weighted_sum(errors, dict.fromkeys(errors, 1.0))
    weight = _weight(file, case, file.constant("iteration", case))
    totals = {}
    for n in "AB":
        terms = {"supervised": supervised[n], "cosine": cosines[n], **contrasts, "consistency": consistency}
        weights = dict.fromkeys(terms, 1.0) | {"consistency": weight if n == other else 0.0}
        totals[n] = weighted_sum(terms, weights)
    both = weighted_sum(totals, dict.fromkeys(totals, 1.0))
    produced: dict[str, Any] = {
        "winner": winner,
        "consistency": consistency,
        "weight_f64": weight,
        **{f"sharpened{view}": q for view, q in sharpened.items()},
        **{f"contrast{i}": loss for i, loss in contrasts.items()},
        **{f"rank_loss_{n}": loss for n, loss in ranks.items()},
        **{f"loss_sup_{n}": loss for n, loss in supervised.items()},
        **{f"cosine_{n}_as_released": loss for n, loss in cosines.items()},
        **{f"total_{n}": loss for n, loss in totals.items()},
        **{f"grad_{v}": grad(totals[v[0]], logits[v]) for v in views},
        **{f"grad_f{v}": grad(totals[v[0]], features[v]) for v in views},
        **{f"grad_f{v}_as_released": grad(both, features[v]) for v in views},
    }
    return {f"{case}/out/{key}": value for key, value in produced.items()}


def _contrast(file: GoldenFile) -> dict[str, Any]:
    features = [file.tensor(f"contrast/in/features_{n}", requires_grad=True) for n in "AB"]
    logits = [file.tensor(f"contrast/in/logits_{n}") for n in "AB"]
    constants = file.constant("tau", "contrast"), file.constant("eps", "contrast")
    loss = boundary_contrast(*features, *logits, *constants)
    views = [file.tensor(f"cosine/in/logits{i}", requires_grad=True) for i in (1, 2)]
    produced = {"contrast/out/loss": loss}
    produced |= {f"contrast/out/grad_{n}": grad(loss, x) for n, x in zip("AB", features)}
    for suffix, axis in {"_as_released": LAST_AXIS, "": CLASSES}.items():
        cosine = cosine_loss(*views, axis)
        produced |= {f"cosine/out/loss{suffix}": cosine, f"cosine/out/grad1{suffix}": grad(cosine, views[0])}
    return produced


def _fused(opinions: list[tuple[Tensor, Tensor]], suffix: str, dempster: bool) -> dict[str, Any]:
    belief, uncertainty = fused_beliefs(*opinions, dempster=dempster)
    return {
        f"medl_fusion/out/belief_fused{suffix}_f64": belief,
        f"medl_fusion/out/uncertainty_fused{suffix}_f64": uncertainty[:, 0],
        **({} if dempster else {"medl_fusion/out/pseudo_label": believed_labels(belief)[:, 0]}),
    }


def _medl(file: GoldenFile) -> dict[str, Any]:
    opinions = [beliefs(file.tensor(f"medl_fusion/in/logits{i}").double()) for i in (1, 2)]
    produced: dict[str, Any] = _fused(opinions, "", False) | _fused(opinions, "_dempster", True)
    for i, (belief, uncertainty) in enumerate(opinions, start=1):
        produced[f"medl_fusion/out/belief{i}_f64"] = belief
        produced[f"medl_fusion/out/uncertainty{i}_f64"] = uncertainty[:, 0]
    uncertainty = file.tensor("medl_omega/in/uncertainty")[:, None]
    epochs, strength = (file.constant(name, "medl_omega") for name in ("epochs", "Xi"))
    weights = [
        asymptotic_weights(uncertainty, ramp_progress(epoch, epochs), strength)[:, 0]
        for epoch in file.numbers("medl_omega/in/epoch")
    ]
    produced["medl_omega/out/rank"] = uncertainty_ranks(uncertainty)[:, 0]
    return produced | {"medl_omega/out/omega_f64": torch.stack(weights)}


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _contrast(file) | _medl(file)
    for case in file.match(r"(\w+)/in/A1"):
        produced |= _step(file, case)
    weights = [_weight(file, "c3s3_ramp", i) for i in file.numbers("c3s3_ramp/in/iteration")]
    return produced | {"c3s3_ramp/out/weight_f64": weights}
