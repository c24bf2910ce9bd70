"""points.npz: losses of PA-Seg and of WSCL, and the geodesic expansion of points."""

from __future__ import annotations

from typing import Any

from torch import nn

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.intensity_variance import intensity_variance
from nnunet_ssl.losses.points import mirror_consistency
from nnunet_ssl.losses.region import masked_cross_entropy, split_ignored
from nnunet_ssl.patches.turns import turn_and_flip
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.weak.seed_expansion import geodesic_distance, geodesic_labels
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.points import distillation_loss, partial_dice_ce

TRAINER = "nnUNetTrainerPointsPASeg"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.intensity_variance.intensity_variance",
)
_OFFLINE = "called by `nnunet_ssl expand`, before training"
_OFFICIAL_LOSS = "the official loss of annotated voxels; ours is nnU-Net's with the ignore label"
_STAGE_2 = "part of PA-Seg's second stage, for which there is no trainer"
_WSCL = "called by nnUNetTrainerPointsConsistency (tests/trainers/test_points_consistency.py)"
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.hard_labels.hard_labels": _STAGE_2,
    "tests.golden.reference.points.distillation_loss": _STAGE_2,
    "nnunet_ssl.losses.points.mirror_consistency": _WSCL,
    "tests.golden.reference.points.partial_dice_ce": _OFFICIAL_LOSS + "; and part of the second stage",
    "nnunet_ssl.losses.region.masked_cross_entropy": _OFFICIAL_LOSS,
    "nnunet_ssl.losses.region.split_ignored": _OFFICIAL_LOSS,
    "nnunet_ssl.weak.seed_expansion.geodesic_distance": _OFFLINE,
    "nnunet_ssl.weak.seed_expansion.geodesic_labels": _OFFLINE,
    "nnunet_ssl.patches.turns.turn_and_flip": _WSCL,
}

# stand in the sidecar's `meaning` only
UNANNOTATED_3D = 2
UNANNOTATED_2D = 255
HORIZONTAL = (3,)
SPACING = (1.5, 0.5, 0.5)  # mm
ITERATIONS = 4
GEODESIC_WEIGHT = {"l05": 0.5, "l0": 0.0, "l1": 1.0}
EXPANDED, NOT_EXPANDED = 1, 2


def _pa_seg(file: GoldenFile) -> dict[str, Any]:
    logits, teacher = file.tensor("logits3d", requires_grad=True), file.tensor("teacher_logits3d")
    target, annotated = split_ignored(file.tensor("points3d"), UNANNOTATED_3D, regions=False)
    partial = partial_dice_ce(logits, target, annotated)
    variance = intensity_variance(probabilities(logits), file.tensor("image3d"), without_minimum=True)
    distilled = distillation_loss(logits, teacher, file.constant("T"))
    return {
        "paseg_partial_dc_ce": partial,
        "paseg_partial_dc_ce_grad": grad(partial, logits),
        "paseg_variance": variance,
        "paseg_variance_grad": grad(variance, logits),
        "paseg_kd_T4": distilled,
        "paseg_kd_T4_grad": grad(distilled, logits),
        "paseg_self_training": partial_dice_ce(logits, hard_labels(teacher)),
    }


def _wscl(file: GoldenFile) -> dict[str, Any]:
    images, kernel = file.tensor("wscl_image"), file.tensor("wscl_conv3x3")
    network = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding="same", bias=False)
    network.weight = nn.Parameter(kernel)
    target, annotated = split_ignored(file.tensor("wscl_points")[:, None], UNANNOTATED_2D, regions=False)
    logits = network(images)
    of_mirrored = network(turn_and_flip(images, 0, HORIZONTAL))
    terms = {
        "consistency": mirror_consistency(logits, of_mirrored, HORIZONTAL, activation=None),
        "points": masked_cross_entropy(logits, target, annotated, "sigmoid"),
        "mirrored": masked_cross_entropy(
            of_mirrored, turn_and_flip(target, 0, HORIZONTAL), turn_and_flip(annotated, 0, HORIZONTAL), "sigmoid"
        ),
    }
    loss = weighted_sum(terms, dict.fromkeys(terms, 1.0))
    return {"wscl_loss": loss, "wscl_logits": logits, "wscl_kernel_grad": grad(loss, network.weight)}


def _geodesic(file: GoldenFile) -> dict[str, Any]:
    image, seeds = file.inputs["geo_image"][None], file.inputs["geo_seed"]
    distances = {
        name: geodesic_distance(image, seeds > 0, SPACING, weight=weight, iterations=ITERATIONS)
        for name, weight in GEODESIC_WEIGHT.items()
    }
    labels = geodesic_labels(distances["l05"][None], [EXPANDED], NOT_EXPANDED, threshold=0.2)
    return {f"geo_distance_{name}": distance for name, distance in distances.items()} | {"geo_label_thr02": labels}


def adapt(file: GoldenFile) -> dict[str, Any]:
    return _pa_seg(file) | _wscl(file) | _geodesic(file)
