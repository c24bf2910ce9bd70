"""cps.npz: cross pseudo supervision, SSL4MIS in 2D and 3D, and the official code without and with CutMix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.cross_pseudo import cross_pseudo_losses
from nnunet_ssl.patches.mixing import box_masks, copy_paste
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.adapters._common import labeled_count
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss

TRAINER = "nnUNetTrainerCPS"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.cross_pseudo.pseudo_cross_entropy",
    "nnunet_ssl.predictions.hard_labels.hard_labels",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
REFERENCE_ONLY = {
    "nnunet_ssl.losses.cross_pseudo.cross_pseudo_losses": "both networks at once; the trainer takes one after the other",
    "nnunet_ssl.patches.mixing.box_masks": "called with `mix = True`, which is not the default; test_cps.py sees it called",
    "nnunet_ssl.patches.mixing.copy_paste": "called with `mix = True`, which is not the default; test_cps.py sees it called",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "nnunet_ssl.ramps.stepwise_progress": "the official ramp moves every 150 iterations, ours every iteration",
}

RAMP_INTERVAL = 150  # iterations, of the official scripts
SUM = {"first": 1.0, "second": 1.0}


def _ssl4mis(file: GoldenFile, dim: str) -> dict[str, Any]:
    first = file.tensor(f"logits{dim}_1", requires_grad=True)
    second = file.tensor(f"logits{dim}_2", requires_grad=True)
    labeled = labeled_count(file, f"labels{dim}", f"pseudo_label{dim}_1")
    target, unlabeled = file.tensor(f"labels{dim}")[:labeled], (first[labeled:], second[labeled:])

    key = f"weight{dim}"
    progress = stepwise_progress(file.constant("iter_num", key), RAMP_INTERVAL, file.constant("rampup", key))
    weight = sigmoid_rampup(progress, file.constant("consistency", key))
    pseudo = cross_pseudo_losses(*unlabeled)
    supervised = ce_dice_loss(first[:labeled], target), ce_dice_loss(second[:labeled], target)
    terms = {"sup_1": supervised[0], "sup_2": supervised[1], "cps_1": pseudo[0], "cps_2": pseudo[1]}
    loss = weighted_sum(terms, {"sup_1": 1.0, "sup_2": 1.0, "cps_1": weight, "cps_2": weight})
    return {
        f"pseudo_label{dim}_1": hard_labels(unlabeled[0])[:, 0],
        f"pseudo_label{dim}_2": hard_labels(unlabeled[1])[:, 0],
        f"pseudo_loss{dim}_1": pseudo[0],
        f"pseudo_loss{dim}_2": pseudo[1],
        f"sup_loss{dim}_1": supervised[0],
        f"sup_loss{dim}_2": supervised[1],
        key: weight,
        f"loss{dim}": loss,
        f"grad{dim}_1": grad(loss, first),
        f"grad{dim}_2": grad(loss, second),
    }


def _total(losses: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return weighted_sum({"first": losses[0], "second": losses[1]}, SUM)


def _cutmix(file: GoldenFile) -> dict[str, Any]:
    u0, u1 = file.tensor("cutmix_u0"), file.tensor("cutmix_u1")
    random = np.random.RandomState(file.constant("numpy_RandomState_seed", "cutmix_mask"))
    share, boxes = file.constant("prop_range", "cutmix_mask"), file.constant("n_boxes", "cutmix_mask")
    mask = box_masks(len(u0), u0.shape[2:], share, boxes, random)
    labels = tuple(
        hard_labels(copy_paste(*(file.tensor(f"cutmix_logits_t{net}u{u}") for u in (1, 0)), mask)) for net in (1, 2)
    )
    losses = cross_pseudo_losses(file.tensor("cutmix_logits_s1"), file.tensor("cutmix_logits_s2"), labels=labels)
    return {
        "cutmix_mask": mask.float(),
        "cutmix_mixed": copy_paste(u1, u0, mask),
        "cutmix_ps_label_1": labels[0][:, 0],
        "cutmix_ps_label_2": labels[1][:, 0],
        "cutmix_cps_loss": _total(losses),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for dim in file.match(r"logits(\dd)_1"):
        produced |= _ssl4mis(file, dim)
    produced["official_cps_loss"] = _total(cross_pseudo_losses(file.tensor("logits2d_1"), file.tensor("logits2d_2")))
    return produced | _cutmix(file)
