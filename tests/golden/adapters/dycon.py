"""dycon.npz: the two losses of DyCON, their schedules, and a whole step of the released script."""

from __future__ import annotations

import re
from typing import Any

from nnunet_ssl.losses.cell_contrast import cell_labels, focal_contrast, hard_negatives, unit_embeddings
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.losses.selective import uncertainty_weighted_mse
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.uncertainty import ramped_threshold
from nnunet_ssl.ramps import geometric_ramp, ramp_progress, sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import labeled_count, stored_ema_sequences
from tests.golden.framework import GoldenFile, grad, grad_sums
from tests.golden.reference.binary import foreground_dice_loss
from tests.golden.reference.supervised import cross_entropy

TRAINER = "nnUNetTrainerDyCON"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update",
    "nnunet_ssl.losses.cell_contrast.cell_labels",
    "nnunet_ssl.losses.cell_contrast.focal_contrast",
    "nnunet_ssl.losses.cell_contrast.hard_negatives",
    "nnunet_ssl.losses.cell_contrast.unit_embeddings",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.losses.selective.uncertainty_weighted_mse",
    "nnunet_ssl.ramps.geometric_ramp",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
    "nnunet_ssl.predictions.uncertainty.ramped_threshold",
)
REFERENCE_ONLY = {
    "tests.golden.reference.binary.foreground_dice_loss": "part of the script's supervised loss; ours is nnU-Net's",
    "tests.golden.reference.supervised.cross_entropy": "part of the script's supervised loss; ours is nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}
SINGLE_PRECISION = ("uncl_values_f64", "uncl_mc2d_values_f64", "step_grad_logits_sum_f64")

# numbers that stand in the sidecar's `meaning` only
TOTAL_EPOCHS = 3334
NEGATIVE, POSITIVE = (0.3, 0.5), (1.3, 1.5)
GRADIENT_BETA = 0.8
STRIDE = (8, 8, 8)
CONSISTENCY, RAMP_INTERVAL, RAMP_LENGTH = 0.1, 150, 200
CLASSES = 2
NO_FOCUS = 0.0


def _beta(file: GoldenFile, epoch: int) -> float:
    return geometric_ramp(ramp_progress(epoch, TOTAL_EPOCHS), file.constant("beta_max"), file.constant("beta_min"))


def _threshold(file: GoldenFile, epoch: int, limits: tuple[float, float]) -> float:
    return ramped_threshold(ramp_progress(epoch, file.constant("rampup_epochs")), *limits)


def _ramp(iteration: int) -> float:
    return sigmoid_rampup(stepwise_progress(iteration, RAMP_INTERVAL, RAMP_LENGTH), CONSISTENCY)


def _contrast(file: GoldenFile, embeddings, labels, epoch: int, focal=True, teacher=None, entropy=None):
    """FeCL as the released script has it: the contrast, with the column's maximum, and the teacher's hard negatives."""
    gamma = file.constant("gamma") if focal and entropy is None else NO_FOCUS
    temperature = file.constant("temperature")
    terms = {"contrast": focal_contrast(embeddings, labels, temperature, gamma, entropy, column_shift=True)}
    if teacher is not None:
        terms["negatives"] = hard_negatives(embeddings, teacher, labels, _threshold(file, epoch, NEGATIVE))
    return weighted_sum(terms, {"contrast": 1.0, "negatives": file.constant("lambda_cross")})


def _uncl(file: GoldenFile) -> dict[str, Any]:
    student, teacher = file.tensor("uncl_student_logits", requires_grad=True), file.tensor("uncl_teacher_logits")
    flat = file.tensor("uncl_mc2d_student_logits"), file.tensor("uncl_mc2d_teacher_logits")
    betas = file.numbers("uncl_betas_f64")
    return {
        "uncl_values_f64": [
            uncertainty_weighted_mse(student, teacher, beta, as_released=True).item() for beta in betas
        ],
        "uncl_grad_beta0p8": grad(uncertainty_weighted_mse(student, teacher, GRADIENT_BETA, as_released=True), student),
        "uncl_mc2d_values_f64": [uncertainty_weighted_mse(*flat, beta, as_released=True).item() for beta in betas],
        "gambling_softmax": probabilities(student),
    }


def _fecl(file: GoldenFile) -> dict[str, Any]:
    embeddings, labels = file.tensor("fecl_feat", requires_grad=True), file.tensor("fecl_mask").squeeze(1)
    teacher, entropy = file.tensor("fecl_teacher_feat"), file.tensor("fecl_patch_entropy")
    produced = {}
    for case in file.match(r"fecl_(plain|(?:focal_|teacher_|entropy_)*e\d+)"):
        parts = case.split("_")
        epoch = re.fullmatch(r"plain|e(\d+)", parts[-1])[1]
        loss = _contrast(
            file,
            embeddings,
            labels,
            int(epoch or 0),
            "focal" in parts,
            teacher if "teacher" in parts else None,
            entropy if "entropy" in parts else None,
        )
        produced |= {f"fecl_{case}": loss, f"fecl_{case}_grad": grad(loss, embeddings)}
    return produced


def _step(file: GoldenFile) -> dict[str, Any]:
    student, teacher = (file.tensor(f"step_{who}_logits").float() for who in ("student", "teacher"))
    student.requires_grad_()
    features = file.tensor("step_student_features", requires_grad=True)
    label = file.tensor("step_label")
    # the released script takes the labels of the unlabeled part too
    count = labeled_count(file, "step_label")
    labeled, unlabeled, target, unlabeled_teacher = student[:count], student[count:], label[:count], teacher[count:]
    labels = cell_labels(label.unsqueeze(1), CLASSES, STRIDE)
    embeddings, teacher_embeddings = (
        unit_embeddings(f)[count:] for f in (features, file.tensor("step_teacher_features"))
    )
    epoch, weight = file.constant("epoch"), _ramp(file.constant("iter_num"))
    beta = _beta(file, epoch)
    terms = {
        "ce": cross_entropy(labeled, target),
        "dice": foreground_dice_loss(probabilities(labeled)[:, 1], target),
        "consistency": softmax_mse(probabilities(unlabeled), probabilities(unlabeled_teacher)),
        "contrast": _contrast(file, embeddings, labels[count:], epoch, teacher=teacher_embeddings),
        "uncertainty": uncertainty_weighted_mse(student, teacher, beta, as_released=True),
    }
    supervised, unsupervised = file.constant("l_weight"), file.constant("u_weight")
    weights = {"ce": supervised, "dice": supervised, "consistency": weight}
    loss = weighted_sum(terms, weights | dict.fromkeys(("contrast", "uncertainty"), unsupervised))
    return {
        "step_mask_con": labels.unsqueeze(1),
        "step_beta_f64": beta,
        "step_loss_seg": terms["ce"],
        "step_loss_seg_dice": terms["dice"],
        "step_f_loss": terms["contrast"],
        "step_u_loss": terms["uncertainty"],
        "step_consistency_loss": terms["consistency"],
        "step_consistency_weight": weight,
        "step_loss": loss,
        "step_grad_features": grad(loss, features),
        "step_grad_logits_sum_f64": grad_sums(loss, student),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _uncl(file) | _fecl(file) | _step(file)
    produced |= stored_ema_sequences(file)
    epochs = file.numbers("beta_epochs")
    produced["beta_values_f64"] = [_beta(file, epoch) for epoch in epochs]
    produced["neg_threshold_values_f64"] = [_threshold(file, epoch, NEGATIVE) for epoch in epochs]
    produced["pos_threshold_values_f64"] = [_threshold(file, epoch, POSITIVE) for epoch in epochs]
    produced["ramp_weights_f64"] = [_ramp(iteration) for iteration in file.numbers("ramp_iters")]
    return produced
