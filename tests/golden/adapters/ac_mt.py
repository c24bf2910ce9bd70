"""ac_mt.npz: the four selections of AC-MT and their losses, ramps, thresholds and teacher."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.entropy import clean_entropy
from nnunet_ssl.losses.selective import selective_mse
from nnunet_ssl.predictions.confident_learning import label_issues, voxel_label_issues
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.prototype_labels import (
    class_prototypes,
    disagreement,
    nearest_prototype,
    pass_statistics,
    prototype_distances,
    rectified_labels,
    resized,
)
from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    relative_entropy,
    select_ambiguous,
)
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import stored_ema_sequences
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss, cross_entropy, squared_dice_loss

TRAINER = "nnUNetTrainerACMT"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.selective.selective_mse",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
    "nnunet_ssl.predictions.uncertainty.ramped_threshold",
    "nnunet_ssl.predictions.uncertainty.relative_entropy",
    "nnunet_ssl.predictions.uncertainty.select_ambiguous",
)
_WITH = (
    "called by the trainer with selection = '{}', which tests/trainers/test_ac_mt.py shows; the default is 'entropy'"
)
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.confident_learning.label_issues": _WITH.format("confident_learning"),
    "nnunet_ssl.predictions.confident_learning.voxel_label_issues": _WITH.format("confident_learning"),
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.supervised.cross_entropy": "part of the literature's supervised loss",
    "tests.golden.reference.supervised.squared_dice_loss": "part of the literature's supervised loss",
    "nnunet_ssl.predictions.prototype_labels.class_prototypes": _WITH.format("prototype"),
    "nnunet_ssl.losses.entropy.clean_entropy": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.disagreement": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.nearest_prototype": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.pass_statistics": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.prototype_distances": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.rectified_labels": _WITH.format("prototype"),
    "nnunet_ssl.predictions.prototype_labels.resized": _WITH.format("prototype"),
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "nnunet_ssl.predictions.uncertainty.max_entropy": _WITH.format("model_uncertainty"),
    "nnunet_ssl.predictions.uncertainty.mean_probabilities": _WITH.format("model_uncertainty"),
    "nnunet_ssl.predictions.uncertainty.predictive_entropy": _WITH.format("model_uncertainty"),
}

# numbers that stand in the sidecar's `meaning` only
RAMP_INTERVAL = 150
ENT_END, MU_START, MU_END = 0.95, 0.75, 0.9
CLASSES = 2
MU_CHANNELS = 1


def _ramp(file: GoldenFile, iteration: int, key: str) -> float:
    progress = stepwise_progress(iteration, RAMP_INTERVAL, file.constant("consistency_rampup", key))
    return sigmoid_rampup(progress, file.constant("consistency", key))


def _ent_threshold(file: GoldenFile, iteration: int) -> float:
    progress = ramp_progress(iteration, file.constant("max_iterations"))
    return ramped_threshold(progress, file.constant("Ent_th"), ENT_END)


def _mu_threshold(file: GoldenFile, iteration: int) -> float:
    progress = ramp_progress(iteration, file.constant("max_iterations"))
    return ramped_threshold(progress, MU_START, MU_END, max_entropy(CLASSES))


def _ent(file: GoldenFile, student, unlabeled, noisy, supervised, weight) -> dict[str, Any]:
    entropy = relative_entropy(probabilities(unlabeled))
    threshold = _ent_threshold(file, file.constant("iter_num"))
    mask = select_ambiguous(entropy, threshold)
    consistency = selective_mse(unlabeled, noisy, mask)
    terms = {"supervised": supervised, "consistency": consistency}
    return {
        "ent_map": entropy[:, 0],
        "ent_threshold_f64": threshold,
        "ent_mask": mask[:, 0],
        "ent_consistency_loss": consistency,
        "ent_loss": weighted_sum(terms, {"supervised": 1.0, "consistency": weight}),
        "ent_grad": grad(consistency, student),
    }


def _mu(file: GoldenFile, student, unlabeled, noisy) -> dict[str, Any]:
    uncertainty = predictive_entropy(mean_probabilities(file.tensor("mc_student_logits"), len(noisy)))
    threshold = _mu_threshold(file, file.constant("iter_num"))
    mask = select_ambiguous(uncertainty, threshold)
    consistency = selective_mse(unlabeled, noisy, mask, channels=MU_CHANNELS)
    return {
        "mu_uncertainty": uncertainty,
        "mu_threshold_f64": threshold,
        "mu_mask": mask,
        "mu_consistency_loss": consistency,
        "mu_grad": grad(consistency, student),
    }


def _serr(file: GoldenFile, unlabeled, clean, noisy) -> dict[str, Any]:
    produced = {}
    for rule in file.match(r"serr_(both|prune\w+)_consistency_loss"):
        mask = voxel_label_issues(unlabeled, probabilities(clean), rule)
        produced[f"serr_{rule}_mask"] = mask[:, 0]
        produced[f"serr_{rule}_consistency_loss"] = selective_mse(unlabeled, noisy, mask)
    labels, p = file.tensor("serr_mc_labels"), file.tensor("serr_mc_probs_f64")
    for rule in file.match(r"serr_mc_(\w+)_mask"):
        produced[f"serr_mc_{rule}_mask"] = label_issues(labels, p, rule)
    return produced


def _perr(file: GoldenFile, unlabeled, clean, noisy) -> dict[str, Any]:
    passes = zip(file.tensor("perr_teacher_mc_logits"), file.tensor("perr_teacher_mc_features"))
    deviation, features = pass_statistics(passes, file.constant("perr_temperature"))
    p = probabilities(clean)
    labels = rectified_labels(p, deviation, file.constant("uncertainty_th"))
    features = resized(features, p.shape[2:])
    prototypes = class_prototypes(features, labels, p)
    distances = prototype_distances(features, prototypes)
    student = probabilities(unlabeled)
    mask = disagreement(student, nearest_prototype(distances))
    consistency, entropy = selective_mse(unlabeled, noisy, mask), clean_entropy(student, mask, as_released=True)
    terms = {"consistency": consistency, "entropy": entropy}
    return {
        "perr_uncertainty": deviation,
        "perr_rect_label": labels,
        "perr_obj_prototype": prototypes[:, 1],
        "perr_bg_prototype": prototypes[:, 0],
        "perr_distance_f_obj": distances[:, 1:2],
        "perr_distance_f_bg": distances[:, :1],
        "perr_noisy_mask": mask,
        "perr_masked_consistency": consistency,
        "perr_entropy_term": entropy,
        "perr_consistency_loss": weighted_sum(terms, {"consistency": 1.0, "entropy": 1.0}),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    student = file.tensor("student_logits", requires_grad=True)
    clean, noisy = file.tensor("teacher_clean_logits"), file.tensor("teacher_noisy_logits")
    labeled = len(student) - len(noisy)
    logits, unlabeled, target = student[:labeled], student[labeled:], file.tensor("label")[:labeled]
    supervised = ce_dice_loss(logits, target)
    weight = _ramp(file, file.constant("iter_num"), "consistency_weight")
    produced = {
        "loss_ce": cross_entropy(logits, target),
        "loss_dice": squared_dice_loss(probabilities(logits), target),
        "supervised_loss": supervised,
        "consistency_weight": weight,
    }
    produced |= _ent(file, student, unlabeled, noisy, supervised, weight)
    produced |= _mu(file, student, unlabeled, noisy)
    produced |= _serr(file, unlabeled, clean, noisy)
    produced |= _perr(file, unlabeled, clean, noisy)
    produced |= stored_ema_sequences(file)
    iterations = file.numbers("threshold_iters")
    produced["ent_threshold_values_f64"] = [_ent_threshold(file, i) for i in iterations]
    produced["mu_threshold_values_f64"] = [_mu_threshold(file, i) for i in iterations]
    produced["ramp_weights_f64"] = [_ramp(file, i, "ramp_weights_f64") for i in file.numbers("ramp_iters")]
    return produced
