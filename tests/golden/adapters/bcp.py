"""bcp.npz: masks, pseudo labels, mixed images and losses of BCP's LA, Pancreas and ACDC scripts, and its teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.engine.ema import ema_update_tensors
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.region import masked_cross_entropy, masked_dice_loss, region_loss
from nnunet_ssl.patches.mixing import box_size, copy_paste, draw_box, outside_boxes
from nnunet_ssl.predictions.hard_labels import hard_labels, largest_components
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.mixing import draw_grid_of_boxes, draw_stripe

TRAINER = "nnUNetTrainerBCP"
USES = (
    "nnunet_ssl.engine.ema.ema_update_tensors",
    "nnunet_ssl.predictions.hard_labels.hard_labels",
    "nnunet_ssl.predictions.hard_labels.largest_components",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.region.masked_cross_entropy",
    "nnunet_ssl.losses.region.masked_dice_loss",
    "nnunet_ssl.losses.region.region_loss",
    "nnunet_ssl.patches.mixing.box_size",
    "nnunet_ssl.patches.mixing.copy_paste",
    "nnunet_ssl.patches.mixing.draw_box",
    "nnunet_ssl.patches.mixing.outside_boxes",
)
REFERENCE_ONLY = {
    "tests.golden.reference.mixing.draw_grid_of_boxes": "a variant of the official ablation; the method has one box",
    "tests.golden.reference.mixing.draw_stripe": "a variant of the official ablation; the method has one box",
}

# numbers that stand in the sidecar's `meaning` only
LA_PATCH, PANCREAS_PATCH, PANCREAS_BOX = (112, 112, 80), (96, 96, 96), (64, 64, 64)


def _boxes(file: GoldenFile, shape, size) -> list:
    """[starts, stops] of the box that each seed gives."""
    boxes = [
        draw_box(shape, size, last=False, random=np.random.RandomState(seed))
        for seed in file.numbers("la_mask_np_seeds")
    ]
    return [[list(ends) for ends in zip(*box)] for box in boxes]


def _masks(file: GoldenFile) -> dict[str, Any]:
    ratio = file.constant("mask_ratio")
    seeds = file.numbers("la_mask_np_seeds")
    shape = tuple(file.inputs["acdc_label"].shape[1:])
    size = box_size(shape, ratio)
    masks = []
    for seed in seeds:
        box = draw_box(shape, size, last=False, random=np.random.RandomState(seed))
        masks.append(outside_boxes(shape, [box])[0, 0])
    grid = draw_grid_of_boxes(shape, ratio, last=False, random=np.random.RandomState(seeds[0]))
    stripe = draw_stripe(shape, extent=shape[1], last=False, random=np.random.RandomState(seeds[0]))
    return {
        "la_mask_boxes": _boxes(file, LA_PATCH, box_size(LA_PATCH, ratio)),
        "pancreas_mask_boxes": _boxes(file, PANCREAS_PATCH, PANCREAS_BOX),
        "acdc_masks": torch.stack(masks),
        "acdc_random_mask": outside_boxes(shape, grid)[0, 0],
        "acdc_contact_mask": outside_boxes(shape, [stripe])[0, 0],
    }


def _weights(file: GoldenFile) -> dict[str, float]:
    return {"labeled": file.constant("l_weight"), "pseudo": file.constant("u_weight")}


def _la(file: GoldenFile) -> dict[str, Any]:
    outside = file.tensor("la_mask")[None, None].bool()
    inside = outside.logical_not()
    image = {x: file.tensor(f"la_img_{x}") for x in "ab"}
    unlabeled = {x: file.tensor(f"la_unimg_{x}") for x in "ab"}
    label = {x: file.tensor(f"la_lab_{x}")[:, None] for x in "ab"}
    pseudo = {x: largest_components(hard_labels(file.tensor(f"la_teacher_logits_{x}"))) for x in "ab"}
    mixed = {"l": copy_paste(label["a"], pseudo["a"], outside), "u": copy_paste(pseudo["b"], label["b"], outside)}
    smooth = file.constant("la_dice_smooth")
    student = {x: file.tensor(f"la_student_logits_{x}", requires_grad=True) for x in "lu"}
    regions = {"l": {"labeled": outside, "pseudo": inside}, "u": {"labeled": inside, "pseudo": outside}}
    loss = {
        x: weighted_sum(
            {name: region_loss(student[x], mixed[x], mask, smooth=smooth) for name, mask in regions[x].items()},
            _weights(file),
        )
        for x in "lu"
    }
    return {
        "la_pseudo_a": pseudo["a"][:, 0],
        "la_pseudo_b": pseudo["b"][:, 0],
        "la_mixl_img": copy_paste(image["a"], unlabeled["a"], outside),
        "la_mixu_img": copy_paste(unlabeled["b"], image["b"], outside),
        "la_mixl_lab": mixed["l"][:, 0],
        "la_mixu_lab": mixed["u"][:, 0],
        "la_loss_l": loss["l"],
        "la_loss_u": loss["u"],
        "la_loss": weighted_sum(loss, {"l": 1.0, "u": 1.0}),
        "la_grad_l": grad(loss["l"], student["l"]),
        "la_grad_u": grad(loss["u"], student["u"]),
        "la_masked_dice": masked_dice_loss(student["l"], label["a"], outside, smooth=smooth),
        "la_sup_loss": region_loss(student["l"], label["a"], smooth=smooth),
    }


def _acdc(file: GoldenFile, outside: Tensor) -> dict[str, Any]:
    """`outside`: (1, 1, *spatial), False in the box."""
    inside = outside.logical_not()
    student = file.tensor("acdc_student_logits", requires_grad=True)
    label = file.tensor("acdc_label")[:, None]
    pseudo = largest_components(hard_labels(file.tensor("acdc_teacher_logits")))
    official = {"batch": True, "squared": True, "smooth": file.constant("acdc_dice_smooth")}
    weights = _weights(file)
    cases = {
        "l": ({"labeled": outside, "pseudo": inside}, weights),
        "unl": ({"labeled": inside, "pseudo": outside}, weights),
        # pre-training: two labeled images, here the second one stands in the place of the pseudo label
        "pre": ({"labeled": outside, "pseudo": inside}, {"labeled": weights["labeled"], "pseudo": weights["labeled"]}),
    }
    produced: dict[str, Any] = {"acdc_pseudo": pseudo[:, 0]}
    for name, (masks, weight) in cases.items():
        target = copy_paste(label, pseudo, masks["labeled"])
        loss = {region: region_loss(student, target, mask, **official) for region, mask in masks.items()}
        dice = {region: masked_dice_loss(student, target, mask, **official) for region, mask in masks.items()}
        entropy = {region: masked_cross_entropy(student, target, mask) for region, mask in masks.items()}
        produced |= {
            f"acdc_{name}_dice": weighted_sum(dice, weight),
            f"acdc_{name}_ce": weighted_sum(entropy, weight),
            f"acdc_{name}_grad": grad(weighted_sum(loss, weight), student),
        }
    return produced


def _ema(file: GoldenFile) -> dict[str, Any]:
    decay, student = file.constant("ema"), file.tensor("ema_student")

    def updated(teacher: Tensor, source: Tensor) -> Tensor:
        teacher = teacher.clone()
        ema_update_tensors([teacher], [source], decay)
        return teacher

    teacher, after = file.tensor("ema_teacher_init"), []
    for source in student:
        teacher = updated(teacher, source)
        after.append(teacher)
    return {
        "ema_teacher": torch.stack(after),
        "acdc_ema_w": updated(file.tensor("ema_teacher_init"), student[0]),
        "acdc_ema_buffer": updated(student[2], student[1]),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    masks = _masks(file)
    return masks | _la(file) | _acdc(file, masks["acdc_masks"][0][None, None]) | _ema(file)
