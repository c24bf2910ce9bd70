"""partial_label.npz: losses for partial labels, ours and those of the literature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.candidate_sets import (
    candidate_cross_entropy,
    excluded_voxels,
    exclusion_cross_entropy,
    exclusion_dice,
    exclusion_loss,
    log_candidate_probability,
    merged_probabilities,
    partial_dice_loss,
    partial_label_loss,
    partial_region_cross_entropy,
    partial_region_dice_loss,
    partial_region_loss,
    summed_logits,
)
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.predictions.candidates import annotation_matrix, candidate_sets
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile
from tests.golden.reference.dynamic_head import dynamic_head
from tests.golden.reference.partial_label_reference import (
    binary_cross_entropy_per_pair,
    binary_dice_per_pair,
    expanded_labels,
    label_set_cross_entropy,
    label_set_target,
    label_sets,
    leaf_dice_loss,
    marginal_dice_loss,
    marginalized_dice_loss,
    marginalized_probabilities,
    marked_channels,
    mean_of_channels,
    mean_of_pairs,
    region_target,
    target_adaptive_loss,
)

TRAINER = "nnUNetTrainerPartialLabel"
_CORE = "nnunet_ssl.losses.candidate_sets."
USES = (
    _CORE + "candidate_cross_entropy",
    _CORE + "partial_dice_loss",
    _CORE + "partial_label_loss",
    "nnunet_ssl.predictions.candidates.annotation_matrix",
    "nnunet_ssl.predictions.candidates.candidate_sets",
)
_REGIONS = "called by the trainer for regions, which tests/trainers/test_partial_label.py shows"
_OPTION = "called by the trainer with {}, which tests/trainers/test_partial_label.py shows"
_PART = "the cross entropy computes it in one pass with the rest"
_LITERATURE = "of a loss of the literature that no trainer has, or of the form of its data"
_REFERENCE = "tests.golden.reference.partial_label_reference."
REFERENCE_ONLY = {
    _CORE + "excluded_voxels": _OPTION.format("exclusion_weight = 2"),
    _CORE + "exclusion_cross_entropy": "in the paper, switched off in the official code",
    _CORE + "exclusion_dice": _OPTION.format("exclusion_weight = 2"),
    _CORE + "exclusion_loss": _OPTION.format("exclusion_weight = 2"),
    _CORE + "log_candidate_probability": _PART,
    _CORE + "merged_probabilities": _PART,
    _CORE + "partial_region_cross_entropy": _REGIONS,
    _CORE + "partial_region_dice_loss": _REGIONS,
    _CORE + "partial_region_loss": _REGIONS,
    _CORE + "summed_logits": _OPTION.format("sum_logits = True"),
    "nnunet_ssl.losses.combine.weighted_sum": "joins the levels of deep supervision; the trainer has scale_weights",
    "nnunet_ssl.predictions.probabilities.probabilities": _PART,
    "tests.golden.reference.dynamic_head.dynamic_head": "DoDNet needs the task of a case for prediction",
} | {
    _REFERENCE + name: _LITERATURE
    for name in (
        "binary_cross_entropy_per_pair",
        "binary_dice_per_pair",
        "expanded_labels",
        "label_set_cross_entropy",
        "label_set_target",
        "label_sets",
        "leaf_dice_loss",
        "marginal_dice_loss",
        "marginalized_dice_loss",
        "marginalized_probabilities",
        "marked_channels",
        "mean_of_channels",
        "mean_of_pairs",
        "region_target",
        "target_adaptive_loss",
    )
}


def _marginal(file: GoldenFile, case: str) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Logits, target, what is annotated, and the channels of the compact map."""
    logits = file.tensor(f"{case}/in/logits")
    annotated = file.constant("annotated", case)
    matrix = annotation_matrix([annotated for _ in logits], logits.shape[1] - 1)
    return logits, expanded_labels(file.tensor(f"{case}/in/gt_compact"), annotated), matrix, [0, *annotated]


def _official_marginal(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target, matrix, channels = _marginal(file, case)
    dice = file.constant("soft_dice", case)
    merged = summed_logits(logits, matrix)
    options = {"background": dice["do_bg"], "smooth": dice["smooth"]}
    batch = dice["batch_dice"]
    weight = file.constant("exclusion_weight", case)
    return {
        "exclusion_mask": excluded_voxels(target, matrix),
        "merged_logits": merged[:, channels],
        "ce_loss": candidate_cross_entropy(merged, target, matrix),
        "dice_loss": partial_dice_loss(merged, target, matrix, batch=batch, **options),
        "exclusion_loss": exclusion_loss(logits, target, matrix, batch=batch, **options),
        "total": partial_label_loss(
            logits, target, matrix, batch_dice=batch, exclusion_weight=weight, sum_logits=True, **options
        ),
    }


def _exact_marginal(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target, matrix, channels = _marginal(file, case)
    q = merged_probabilities(probabilities(logits), matrix)
    log_q0 = log_candidate_probability(logits, candidate_sets(matrix))
    # the logarithm of a single class is that of a set with one member
    singles = [
        log_candidate_probability(logits, annotation_matrix([[c + 1] for _ in logits], logits.shape[1]))
        for c in channels[1:]
    ]
    options = {"batch": file.constant("batch_dice", case), "smooth": file.constant("smooth", case)}
    return {
        "q": q[:, channels],
        "log_q": torch.cat([log_q0, *singles], dim=1),
        "marginal_ce": candidate_cross_entropy(logits, target, matrix),
        "marginal_dice_all": marginal_dice_loss(logits, target, matrix, background=True, **options),
        "marginal_dice_fg": marginal_dice_loss(logits, target, matrix, **options),
        "exclusion_mask": excluded_voxels(target, matrix),
        "exclusion_dice_per_class": exclusion_dice(logits, target, matrix, **options),
        "exclusion_dice_all_mean": exclusion_loss(logits, target, matrix, background=True, **options),
        "exclusion_dice_fg_mean": exclusion_loss(logits, target, matrix, **options),
        "exclusion_ce": exclusion_cross_entropy(logits, target, matrix, file.constant("exclusion_ce_eps", case)),
    }


def _target_adaptive(file: GoldenFile, case: str) -> dict[str, Any]:
    p, annotated = file.tensor(f"{case}/in/prob"), file.constant("annotated", case)
    target = expanded_labels(file.tensor(f"{case}/in/target"), annotated)[:, None]
    matrix = annotation_matrix([annotated for _ in p], p.shape[1] - 1)
    floor = file.constant("clamp_min", case)
    return {
        "merged": merged_probabilities(p, matrix)[:, [0, *annotated]],
        "loss": target_adaptive_loss(p, target, matrix, floor),
    }


def _multitalent(file: GoldenFile, case: str) -> dict[str, Any]:
    valid = file.tensor(f"{case}/in/valid")
    regions = file.constant("regions", case)
    batch, weights = file.constant("batch_dice", case), file.constant("ds_weights", case)
    cross_entropy, dice, total = {}, {}, {}
    for level in file.match(rf"{case}/in/logits_(\d+)"):
        logits = file.tensor(f"{case}/in/logits_{level}")
        target = region_target(file.tensor(f"{case}/in/target_{level}"), [*regions.values()])
        options = {"reduction": "sum"}
        cross_entropy[level] = partial_region_cross_entropy(logits, target, valid, proven=False, **options)
        dice[level] = -partial_region_dice_loss(logits, target, valid, batch=batch, **options)
        total[level] = partial_region_loss(logits, target, valid, batch_dice=batch, proven=False, **options)
    weights = {level: weights[int(level)] for level in total}
    return {
        "ce": weighted_sum(cross_entropy, weights),
        "dice_sum": weighted_sum(dice, weights),
        "total": weighted_sum(total, weights),
    }


def _dodnet(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target = file.tensor(f"{case}/in/logits"), file.tensor(f"{case}/in/target")
    valid = marked_channels(target, file.constant("marker", case))
    dice = binary_dice_per_pair(logits, target, file.constant("smooth", case))
    return {
        "dice": mean_of_channels(dice, valid),
        "bce": mean_of_channels(binary_cross_entropy_per_pair(logits, target), valid),
    }


def _dynamic_head(file: GoldenFile, case: str) -> dict[str, Any]:
    weights, biases, channels = (file.constant(name, case) for name in ("weights", "biases", "channels"))
    features, parameters = file.tensor(f"{case}/in/features"), file.tensor(f"{case}/in/params")
    return {"logits": dynamic_head(features, parameters, weights, biases, channels)}


def _clip(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target = file.tensor(f"{case}/in/logits"), file.tensor(f"{case}/in/target")
    template = file.constant("template", case)
    organs = [template[f"{prefix:02d}"] for prefix in file.numbers(f"{case}/in/case_prefix")]
    valid = annotation_matrix(organs, logits.shape[1])
    dice = binary_dice_per_pair(logits, target, file.constant("smooth", case), per_slab=True)
    return {
        "dice": mean_of_pairs(dice, valid),
        "bce": mean_of_pairs(binary_cross_entropy_per_pair(logits, target), valid),
    }


def _label_set(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target = file.tensor(f"{case}/in/logits"), file.tensor(f"{case}/in/target")[:, None]
    supersets = {int(label): classes for label, classes in file.constant("superset_map", case).items()}
    sets, eps = label_sets(target, supersets, logits.shape[1]), file.constant("eps", case)
    produced = {
        "marg_prob": marginalized_probabilities(logits, sets).flatten(2),
        "marg_onehot": label_set_target(sets).flatten(2),
        "marginalized_ce": label_set_cross_entropy(logits, sets),
    }
    for squared in (False, True):
        suffix = f"sq{int(squared)}"
        produced[f"leaf_dice_{suffix}"] = leaf_dice_loss(logits, target, squared, eps)
        produced[f"marginalized_dice_{suffix}"] = marginalized_dice_loss(logits, sets, squared, eps)
    return produced


def _candidate_set(file: GoldenFile, case: str) -> dict[str, Any]:
    logits, target = file.tensor(f"{case}/in/logits"), file.tensor(f"{case}/in/target")[:, None]
    annotated, ignored = file.tensor(f"{case}/in/annotated"), file.tensor(f"{case}/in/ignore")[:, None]
    options = {name: file.constant(key, case) for name, key in (("smooth", "smooth"), ("background", "do_bg"))}
    produced = {}
    for suffix, mask in (("", None), ("_ignore", ~ignored)):
        produced[f"ce{suffix}"] = candidate_cross_entropy(logits, target, annotated, mask)
        for kind, batch in (("batch", True), ("sample", False)):
            dice = partial_dice_loss(logits, target, annotated, mask, batch=batch, **options)
            total = partial_label_loss(logits, target, annotated, mask, batch_dice=batch, **options)
            produced |= {f"dice_{kind}{suffix}": dice, f"total_{kind}{suffix}": total}
    return produced


_KINDS = {
    "marginal_exclusion_official": _official_marginal,
    "marginal_exclusion_exact": _exact_marginal,
    "tal_type": _target_adaptive,
    "multitalent": _multitalent,
    "dodnet_masked": _dodnet,
    "dodnet_dynamic_head": _dynamic_head,
    "clip_universal_masked": _clip,
    "label_set": _label_set,
    "candidate_set": _candidate_set,
}


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for kind, function in _KINDS.items():
        for case in file.match(rf"({kind}\w*)/out/\w+"):
            produced |= {f"{case}/out/{name}": value for name, value in function(file, case).items()}
    return produced
