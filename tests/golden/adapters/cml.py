"""cml.npz: boxes, discrepancy of features and one step of CML's LA script; its supervised loss with weights and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.discrepancy import feature_discrepancy, mutual_discrepancy
from nnunet_ssl.losses.region import region_loss
from nnunet_ssl.patches.mixing import box_size, cross_view_labels, draw_box, mix_halves, outside_boxes
from nnunet_ssl.predictions.hard_labels import hard_labels, largest_components
from tests.golden.framework import GoldenFile, grad

TRAINER = "nnUNetTrainerCML"
USES = (
    "nnunet_ssl.predictions.hard_labels.hard_labels",
    "nnunet_ssl.predictions.hard_labels.largest_components",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.discrepancy.feature_discrepancy",
    "nnunet_ssl.losses.discrepancy.mutual_discrepancy",
    "nnunet_ssl.patches.mixing.box_size",
    "nnunet_ssl.patches.mixing.cross_view_labels",
    "nnunet_ssl.patches.mixing.draw_box",
    "nnunet_ssl.patches.mixing.mix_halves",
    "nnunet_ssl.patches.mixing.outside_boxes",
)
REFERENCE_ONLY = {"nnunet_ssl.losses.region.region_loss": "the official supervised loss; ours is nnU-Net's"}

SHAPE_2D = (16, 20)  # stands in the sidecar's `meaning` only


def _masks(file: GoldenFile, shape, ratio: float) -> Tensor:
    """The mask of each seed, `(seeds, *shape)`."""
    size, masks = box_size(shape, ratio), []
    for seed in file.numbers("mask_np_seeds"):
        box = draw_box(shape, size, last=False, random=np.random.RandomState(seed))
        masks.append(outside_boxes(shape, [box])[0, 0])
    return torch.stack(masks)


def _pair(file: GoldenFile, kind: str) -> Tensor:
    return torch.cat([file.tensor(f"{kind}_{half}") for half in "ab"])


def _step(file: GoldenFile) -> dict[str, Any]:
    smooth, eps = file.constant("dice_smooth"), file.constant("cos_eps")
    mask = {x: file.tensor(f"mask_{x}")[None, None].bool() for x in "lu"}
    labels = [largest_components(hard_labels(file.tensor(f"pl_logits{i}"))) for i in "12"]
    mixed_label = mix_halves(_pair(file, "lab")[:, None], mask["l"])
    pseudo = dict(zip("12", cross_view_labels(*labels, mask["u"])))
    out = {k: file.tensor(f"out{k}", requires_grad=True) for k in ("1_l", "2_l", "1_u", "2_u")}
    features = {k: file.tensor(f"feat{k}", requires_grad=True) for k in out}
    supervised = {f"{i}_l": region_loss(out[f"{i}_l"], mixed_label, smooth=smooth) for i in "12"}
    supervised |= {f"{i}_u": region_loss(out[f"{i}_u"], pseudo[i], smooth=smooth) for i in "12"}
    discrepancy = {x: mutual_discrepancy(features[f"1_{x}"], features[f"2_{x}"], eps) for x in "lu"}

    def total(terms: dict[str, Tensor], weight: float) -> Tensor:
        return weighted_sum(terms, dict.fromkeys(terms, weight))

    of_part = {x: {i: supervised[f"{i}_{x}"] for i in "12"} for x in "lu"}
    parts = {x: total(of_part[x], file.constant(f"{x}_weight", "la")) for x in "lu"}
    parts["dis"] = total(discrepancy, file.constant("dis_weight", "la"))
    loss = total(parts, 1.0)
    produced = {
        "plab": labels[0][:, 0],
        "plab_sub": labels[1][:, 0],
        "mixl_img": mix_halves(_pair(file, "img"), mask["l"]),
        "mixu_img": mix_halves(_pair(file, "unimg"), mask["u"]),
        "mixl_lab": mixed_label[:, 0],
        "mixu_plab": pseudo["1"][:, 0],
        "mixu_plab_sub": pseudo["2"][:, 0],
        "loss": loss,
        "sup_masked": region_loss(
            out["1_l"], file.tensor("lab_a")[:, None], file.tensor("weight_mask")[:, None], smooth=smooth
        ),
    }
    produced |= {f"loss_{name}": part for name, part in parts.items()}
    for x in "lu":
        produced |= {f"loss_sup_{x}": supervised[f"1_{x}"], f"sub_loss_sup_{x}": supervised[f"2_{x}"]}
    for k in out:
        produced |= {f"grad_out{k}": grad(loss, out[k]), f"grad_feat{k}": grad(loss, features[k])}
    return produced


def adapt(file: GoldenFile) -> dict[str, Any]:
    eps = file.constant("cos_eps")
    a, b = file.tensor("feat_a", requires_grad=True), file.tensor("feat_b")
    distance = feature_discrepancy(a, b, eps)
    label = file.tensor("mc2d_label")[:, None]
    return _step(file) | {
        "masks_3d": _masks(file, file.inputs["img_a"].shape[2:], file.constant("mask_ratio", "la")),
        "masks_2d": _masks(file, SHAPE_2D, file.constant("mask_ratio", "acdc")),
        "dis_ab": distance,
        "dis_ab_grad_a": grad(distance, a),
        "dis_ba": feature_discrepancy(b, a, eps),
        "mc2d_sup": region_loss(file.tensor("mc2d_logits"), label, smooth=file.constant("dice_smooth")),
    }
