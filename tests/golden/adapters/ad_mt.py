"""ad_mt.npz: steps of AD-MT in 2D and 3D with either teacher's perturbation, CutMix boxes, ramp, turns and moving averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.engine.ema import ema_update_tensors
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mixed_pseudo_labels import pseudo_dice
from nnunet_ssl.losses.region import masked_cross_entropy
from nnunet_ssl.patches.mixing import centered_box, copy_paste, cutmix_sides, outside_boxes
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.predictions.teacher_pair import (
    Alternation,
    compromise,
    entropy_in_bits,
    entropy_weighted_mean,
    weight_of_first,
)
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.alternating_ema import decay_of_iteration, sharpened_mean
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerADMT"
_CUTMIX = "in the second teacher's turns; test_ad_mt.py sees it called"
USES = (
    "nnunet_ssl.engine.ema.ema_decay_at",
    "nnunet_ssl.engine.ema.ema_update_tensors",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.predictions.teacher_pair.compromise",
    "nnunet_ssl.predictions.teacher_pair.entropy_in_bits",
    "nnunet_ssl.predictions.teacher_pair.entropy_weighted_mean",
    "nnunet_ssl.predictions.hard_labels.label_and_confidence",
    "nnunet_ssl.predictions.teacher_pair.weight_of_first",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.losses.mixed_pseudo_labels.pseudo_dice": "the loss of the official 2D script; ours has the sum of both",
    "nnunet_ssl.losses.region.masked_cross_entropy": "the loss of the official 3D script, a mean over the sure voxels alone",
    "nnunet_ssl.patches.mixing.centered_box": _CUTMIX,
    "nnunet_ssl.patches.mixing.copy_paste": _CUTMIX,
    "nnunet_ssl.patches.mixing.cutmix_sides": _CUTMIX,
    "nnunet_ssl.patches.mixing.outside_boxes": _CUTMIX,
    "nnunet_ssl.predictions.teacher_pair.Alternation": "made when the training starts, and stepped in every step",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.alternating_ema.decay_of_iteration": "counts half of the iterations; ours its updates",
    "tests.golden.reference.alternating_ema.sharpened_mean": "the official temperature is 1, which sharpens nothing",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
}
_COUNTER = "averages an integer counter of batches, which turns it into a fraction"
NOT_FOLLOWED = {f"ema/out/teacher{i}_count_as_released": _COUNTER for i in (1, 2)}

ONE_STEP = 1


def _weight(file: GoldenFile, case: str, iteration: int) -> float:
    interval = file.constant("iterations_per_ramp_step", "ramp")
    progress = stepwise_progress(iteration, interval, file.constant("consistency_rampup", case))
    return sigmoid_rampup(progress, file.constant("consistency", case))


def _unlabeled_loss(file: GoldenFile, case: str, logits: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    form = file.constant("unlabeled_loss", case)
    loss = masked_cross_entropy if form.startswith("cross entropy") else pseudo_dice
    return loss(logits, label, mask=counted)


def _mask(file: GoldenFile, case: str, shape) -> Tensor:
    sides = cutmix_sides(shape, file.number(f"{case}/in/cutmix_lambda"))
    centers = file.inputs[f"{case}/in/cutmix_centers"].tolist()
    return torch.cat([outside_boxes(shape, [centered_box(shape, sides, center)]) for center in centers])


def _step(file: GoldenFile, case: str) -> dict[str, Any]:
    student = file.tensor(f"{case}/in/student_logits", requires_grad=True)
    labels = file.tensor(f"{case}/in/label")
    weak_images = file.tensor(f"{case}/in/image_weak")
    labeled, weak, changed = student.split([len(labels), len(weak_images), len(weak_images)])
    p = [probabilities(file.tensor(f"{case}/in/teacher{i}_logits")) for i in (1, 2)]
    entropies = [entropy_in_bits(q) for q in p]
    ensemble = sharpened_mean(entropy_weighted_mean(*p), file.constant("ensemble_temperature", case))
    label, confidence = label_and_confidence(ensemble)
    conflict = label_and_confidence(p[0])[0] != label_and_confidence(p[1])[0]
    own_label, own_confidence = label_and_confidence(probabilities(weak))
    supervised = ce_dice_loss(labeled, labels)
    weight = _weight(file, case, file.constant("iteration", case))
    threshold = file.constant("conf_threshold", case)

    def total(loss: Tensor) -> Tensor:
        return weighted_sum({"supervised": supervised, "unlabeled": loss}, {"supervised": 1.0, "unlabeled": weight})

    def outcome(name: str, suffix: str, found: tuple[Tensor, Tensor]) -> dict[str, Any]:
        loss = _unlabeled_loss(file, case, changed, found[0], found[1] >= threshold)
        return {
            f"{name}_label{suffix}": found[0][:, 0],
            f"{name}_confidence{suffix}": found[1][:, 0],
            f"{name}_loss_u{suffix}": loss,
            f"{name}_total{suffix}": total(loss),
            f"{name}_grad{suffix}": grad(total(loss), student),
        }

    mask = _mask(file, case, weak_images.shape[2:])
    partner = file.tensor(f"{case}/in/cutmix_partner")

    def mixed(x: Tensor) -> Tensor:
        return copy_paste(x, x[partner], mask)

    of_mix = mixed(label), mixed(confidence)
    taken = compromise(label, confidence, own_label, own_confidence, conflict)
    intended = compromise(*of_mix, mixed(own_label), mixed(own_confidence), mixed(conflict))
    released = compromise(*of_mix, own_label, own_confidence, mixed(conflict))
    sure = taken[1] >= threshold
    parts = {
        "agreement": _unlabeled_loss(file, case, changed, taken[0], sure & conflict.logical_not()),
        "conflict": _unlabeled_loss(file, case, changed, taken[0], sure & conflict),
    }
    lower = file.constant("alt_param_conflict_weight", f"{case}/out/true_loss_u_conflict_weight")
    weighted = weighted_sum(parts, {"agreement": 1.0, "conflict": lower})
    produced = {
        "entropy1": entropies[0][:, 0],
        "entropy2": entropies[1][:, 0],
        "weight1": weight_of_first(*entropies)[:, 0],
        "ensemble": ensemble,
        "pseudo_label": label[:, 0],
        "confidence": confidence[:, 0],
        "conflict": conflict[:, 0],
        "student_label": own_label[:, 0],
        "student_confidence": own_confidence[:, 0],
        "loss_sup": supervised,
        "weight_f64": weight,
        "true_loss_u_conflict_weight": weighted,
        "true_grad_conflict_weight": grad(total(weighted), student),
        "false_image": mixed(weak_images),
        "false_pseudo_label_mixed": of_mix[0][:, 0],
        "false_confidence_mixed": of_mix[1][:, 0],
        "false_conflict_mixed": mixed(conflict)[:, 0],
        **outcome("true", "", taken),
        **outcome("false", "", intended),
        **outcome("false", "_as_released", released),
    }
    return {f"{case}/out/{key}": value for key, value in produced.items()}


def _boxes(file: GoldenFile, case: str) -> list:
    """Row x sample x (start, stop) x axis."""
    shape, rows = file.constant("shape", case), []
    for share, centers in zip(file.numbers(f"{case}/in/lambda"), file.inputs[f"{case}/in/centers"].tolist()):
        sides = cutmix_sides(shape, share)
        rows.append([[list(ends) for ends in zip(*centered_box(shape, sides, center))] for center in centers])
    return rows


def _turns(file: GoldenFile, lengths, steps: int) -> list[bool]:
    alternation, states = Alternation(lambda: next(lengths)), []
    alternation.first = file.constant("initial_state", "alternator")
    for _ in range(steps):
        states.append(alternation.first)
        alternation.step()
    return states


def _ema(file: GoldenFile) -> dict[str, Any]:
    names = ("parameter", "running")
    students = {name: file.tensor(f"ema/in/student_{name}") for name in names}
    teachers = {i: [file.tensor(f"ema/in/teacher{i}_{name}") for name in names] for i in (1, 2)}
    first, copies, decay = (file.constant(c, "ema") for c in ("first_iteration", "consistency_rampup", "ema_decay"))
    after: dict[str, list[Tensor]] = {f"teacher{i}_{name}": [] for i in teachers for name in names}
    decays = []
    for t, active in enumerate(file.numbers("ema/in/state")):
        decays.append(decay_of_iteration(first + t, copies, decay))
        ema_update_tensors(teachers[1 if active else 2], [students[name][t] for name in names], decays[-1])
        for i, tensors in teachers.items():
            for name, tensor in zip(names, tensors):
                after[f"teacher{i}_{name}"].append(tensor.clone())
    return {"ema/out/alpha_f64": decays} | {f"ema/out/{key}": torch.stack(values) for key, values in after.items()}


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _ema(file)
    for case in file.match(r"(step_\dd)/in/label"):
        produced |= _step(file, case)
    for case in file.match(r"(cutmix_boxes_\dd)/in/lambda"):
        produced[f"{case}/out/bounds"] = _boxes(file, case)
    produced["ramp/out/weight_f64"] = [_weight(file, "ramp", i) for i in file.numbers("ramp/in/iteration")]
    periods = iter(file.numbers("alternator/in/periods"))
    produced["alternator/out/state"] = _turns(file, periods, file.constant("steps", "alternator"))
    key = "alternator/out/state_not_random_as_released"
    produced[key] = _turns(file, iter(lambda: ONE_STEP, None), file.length(key))
    return produced
