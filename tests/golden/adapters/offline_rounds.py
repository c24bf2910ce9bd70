"""offline_rounds.npz: which pseudo labels of whole images are kept, and the online steps of the STSR 2025 winner."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.predictions.selection import (
    changed_share,
    class_confidence,
    falling_order,
    foreground_entropy,
    instability,
    passes_gate,
)
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.stsr import (
    confident_labels,
    consistency_weight,
    perturbed_features,
    unlabeled_probability,
)

TRAINER = None  # labels are selected by `nnunet_ssl pseudo_label`, before the training
USES = ()
_COMMAND = "called by `nnunet_ssl pseudo_label` (tests/commands/test_pseudo_label.py)"
_ONLINE = "part of the STSR winner's training, for which there is no trainer"
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.selection.changed_share": _COMMAND,
    "nnunet_ssl.predictions.selection.class_confidence": _COMMAND,
    "nnunet_ssl.predictions.selection.falling_order": _COMMAND,
    "nnunet_ssl.predictions.selection.foreground_entropy": _COMMAND,
    "nnunet_ssl.predictions.selection.instability": _COMMAND,
    "nnunet_ssl.predictions.selection.passes_gate": _COMMAND,
    "nnunet_ssl.losses.consistency.softmax_mse": _ONLINE,
    "nnunet_ssl.ramps.sigmoid_rampup": _ONLINE,
    "tests.golden.reference.stsr.confident_labels": _ONLINE,
    "tests.golden.reference.stsr.consistency_weight": _ONLINE,
    "tests.golden.reference.stsr.perturbed_features": _ONLINE,
    "tests.golden.reference.stsr.unlabeled_probability": _ONLINE,
}
SINGLE_PRECISION = ("case_gate/out/conf_mean_f64", "case_gate/out/entropy_foreground_f64")


def _changes(cases: np.ndarray) -> list[list[float]]:
    return [[changed_share(*pair) for pair in itertools.pairwise(rounds)] for rounds in cases]


def _rounds(file: GoldenFile) -> dict[str, Any]:
    changes = _changes(file.inputs["instability/in/label_maps"])
    u = [instability(of_case) for of_case in changes]
    produced = {f"instability/out/d{number}_f64": d for number, d in enumerate(zip(*changes), start=2)}
    empty = _changes(file.inputs["instability_empty/in/label_maps"])
    return produced | {
        "instability/out/u_f64": u,
        "instability/out/order": falling_order(u),
        "instability_empty/out/d_f64": empty,
    }


def _gate(file: GoldenFile) -> dict[str, Any]:
    threshold, keep_from = (file.constant(key, "case_gate/out/keep") for key in ("confidence", "keep_from"))
    cases = file.inputs["case_gate/in/probabilities"]
    found = [class_confidence(p, threshold=threshold) for p in cases]
    return {
        "case_gate/out/conf_p90_f64": [c.share for c in found],
        "case_gate/out/conf_mean_f64": [c.mean for c in found],
        "case_gate/out/voxels": [c.voxels for c in found],
        "case_gate/out/keep": [passes_gate(c.share, keep_from) for c in found],
        "case_gate/out/entropy_foreground_f64": [foreground_entropy(p) for p in cases],
    }


def _online(file: GoldenFile) -> dict[str, Any]:
    keys = "num_epochs", "iterations_per_epoch", "ramp_fraction", "weight", "unlabeled_min_ratio", "unlabeled_max_ratio"
    epochs, steps, ramp, weight, smallest, greatest = (file.constant(k, "stsr_weight/out/weight_f64") for k in keys)
    run, iterations = (epochs, steps), file.numbers("stsr_weight/in/iteration")
    strong = file.tensor("stsr_mse/in/strong_logits", requires_grad=True)
    loss = softmax_mse(strong, file.tensor("stsr_mse/in/weak_logits"))
    return {
        "stsr_weight/out/weight_f64": [consistency_weight(t, run, ramp, weight) for t in iterations],
        "stsr_weight/out/p_unlabeled_f64": [unlabeled_probability(t, run, smallest, greatest) for t in iterations],
        "stsr_feature/out/perturbed": perturbed_features(
            file.tensor("stsr_feature/in/features"),
            file.tensor("stsr_feature/in/channel_keep"),
            file.constant("dropout_p", "stsr_feature/out/perturbed"),
            file.number("stsr_feature/in/threshold_factor"),
            file.tensor("stsr_feature/in/noise"),
        ),
        "stsr_mse/out/loss": loss,
        "stsr_mse/out/grad": grad(loss, strong),
        "stsr_pseudo/out/label": confident_labels(
            file.tensor("stsr_pseudo/in/logits"), file.constant("threshold", "stsr_pseudo/out/label")
        ),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    return _rounds(file) | _gate(file) | _online(file)
