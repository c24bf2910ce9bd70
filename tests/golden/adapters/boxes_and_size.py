"""boxes_and_size.npz: size penalties and barriers, the tightness prior of boxes, bags of pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_ssl.losses.partial_cross_entropy import partial_cross_entropy
from nnunet_ssl.losses.region import one_hot
from nnunet_ssl.losses.size import barrier_steepness, extended_log_barrier, scaled_bounds, size_loss, soft_sizes
from nnunet_ssl.losses.tightness import tightness_loss
from nnunet_ssl.patches.boxes import bounding_boxes, box_rows, box_strips
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.boxes import fill_boxes, rows_from_corners
from tests.golden.reference.multiple_instance import bag_loss, pairwise_smoothness
from tests.golden.reference.size import precise_bounds
from tests.golden.reference.tightness import projected_tightness

TRAINER = "nnUNetTrainerBoxTightness"
USES = (
    "nnunet_ssl.patches.boxes.box_rows",
    "nnunet_ssl.patches.boxes.box_strips",
    "nnunet_ssl.patches.boxes.box_sums",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.size.barrier_steepness",
    "nnunet_ssl.losses.size.extended_log_barrier",
    "nnunet_ssl.losses.size.scaled_bounds",
    "nnunet_ssl.losses.size.size_loss",
    "nnunet_ssl.losses.tightness.tightness_loss",
)
_BAGS = "bags are another way to use boxes; the trainer has the tightness prior"
REFERENCE_ONLY = {
    "nnunet_ssl.patches.boxes.bounding_boxes": "the trainer's boxes are components that know their class, from BoxTargets",
    "tests.golden.reference.boxes.fill_boxes": "the official strips are masks, ours are corners",
    "tests.golden.reference.boxes.rows_from_corners": "the order of corners in wsis-boundingbox",
    "tests.golden.reference.multiple_instance.bag_loss": _BAGS,
    "tests.golden.reference.multiple_instance.bag_scores": _BAGS,
    "tests.golden.reference.multiple_instance.pairwise_smoothness": _BAGS,
    "nnunet_ssl.losses.partial_cross_entropy.partial_cross_entropy": "nnU-Net's loss has its own cross entropy",
    "nnunet_ssl.losses.region.one_hot": "for the true sizes",
    "tests.golden.reference.size.precise_bounds": "needs the true sizes, which no sparse label tells",
    "nnunet_ssl.losses.size.soft_sizes": "of nnUNetTrainerSizeConstraint",
    "tests.golden.reference.tightness.projected_tightness": "the trainer has slabs instead of projections",
}

# numbers that stand in the sidecar's `meaning` only
OBJECT = 1  # the class of most losses
TOO_SMALL = (300.0, 900.0)
STEEPNESS = 5.0
AREA_SHARES = (0.5, 0.9)
PROJECTED_WIDTH = 3
MARGIN_3D = 0.1
# not said in the sidecar; follows from the values
MODES = {"gm": "all", "expsumr": "focal", "explogs": "focal"}


def _with_gradient(name: str, value: Tensor, logits: Tensor) -> dict[str, Tensor]:
    return {name: value, f"{name}_grad": grad(value.squeeze(), logits)}


def _sizes(file: GoldenFile, logits: Tensor) -> dict[str, Any]:
    p, voxels = probabilities(logits), logits[0, 0].numel()
    truth, margin = one_hot(file.tensor("gt")[:, None], logits.shape[1]), file.constant("margin")
    sizes, precise = soft_sizes(p), precise_bounds(soft_sizes(truth), margin)
    bounds = {"fixed": file.tensor("fixed_bounds")[:, :, 0], "precise": precise}
    of_object = slice(OBJECT, OBJECT + 1)
    chosen = {name: b[:, of_object] for name, b in bounds.items()}
    only = torch.as_tensor([c == OBJECT for c in range(logits.shape[1])])
    target = file.tensor("gt")[:, None]
    boxes = file.tensor("box_onehot")
    box_bounds = scaled_bounds(soft_sizes(boxes), *AREA_SHARES)
    outside = soft_sizes(p, boxes[:, :1])[:, :1]
    produced = {
        "soft_size": sizes[..., None],
        "precise_bounds": precise[:, :, None],
        "box_bounds": box_bounds[:, :, None],
        "ce_idc1": partial_cross_entropy(logits, target, target >= 0, class_weights=only),
        "naive_sum_variant": size_loss(sizes[:, of_object], chosen["precise"], voxels, reduction="sum"),
        "neg_size_as_coded": size_loss(
            outside,
            torch.as_tensor([0.0, 0.0]),
            voxels,
            t=STEEPNESS,
            counted=torch.as_tensor([False, True]),
            reduction="sum",
        ),
    }
    whole = precise_bounds(soft_sizes(truth, batch=True), margin)[:, of_object]
    of_batch = size_loss(soft_sizes(p, batch=True)[:, of_object], whole, voxels)
    produced |= _with_gradient("batch_naive", of_batch, logits)
    chosen["fixed_too_small"] = torch.as_tensor(TOO_SMALL)
    for name, limits in chosen.items():
        produced |= _with_gradient(f"naive_{name}", size_loss(sizes[:, of_object], limits, voxels), logits)
    for name in file.match(r"logbarrier_(\w+_t\d+)"):
        kind, t = name.rsplit("_t", 1)
        barrier = size_loss(sizes[:, of_object], chosen[kind], voxels, t=int(t), reduction="sum")
        produced |= _with_gradient(f"logbarrier_{name}", barrier, logits)
    barrier = size_loss(sizes[:, of_object], box_bounds[:, of_object], voxels, t=STEEPNESS, reduction="sum")
    return produced | _with_gradient("box_size_barrier", barrier, logits)


def _strips(mask, width: int):
    """All strips and bounds of the boxes of a mask `(*spatial)`."""
    found = [box_strips(box, width, short_extent=True) for box in bounding_boxes(mask)]
    strips = [strip for of_box, _ in found for strip in of_box]
    return [strip[None] for strip in strips], [int(bound) for _, bounds in found for bound in bounds]


def _tightness(file: GoldenFile, logits: Tensor) -> dict[str, Any]:
    boxes, produced = file.inputs["box_onehot"][:, OBJECT], {}
    shape = boxes.shape[1:]
    for name in file.match(r"masks_(d\d+_b\d+)"):
        width, item = (int(part[1:]) for part in name.split("_"))
        strips, bounds = _strips(boxes[item], width)
        masks = [fill_boxes(box_rows(0, 0, strip), (1, 1, *shape))[0, 0] for strip in strips]
        produced[f"masks_{name}"] = torch.stack(masks) if masks else boxes[:0]
        produced[f"bounds_{name}"] = torch.as_tensor(bounds, dtype=torch.float32)
    for name in file.match(r"boxprior_(d\d+_t\d+)"):
        width, t = (int(part[1:]) for part in name.split("_"))
        rows, bounds = [], []
        for item, mask in enumerate(boxes):
            strips, least = _strips(mask, width)
            rows += [box_rows(item, OBJECT, strip) for strip in strips]
            bounds += least
        p = probabilities(logits)
        loss = tightness_loss(p, torch.cat(rows), torch.as_tensor(bounds), t=t, reduction="sum")
        produced |= _with_gradient(f"boxprior_{name}", loss, logits)
    return produced


def _barriers(file: GoldenFile) -> dict[str, Any]:
    produced = {}
    for name in file.match(r"barrier_t(.+)"):  # 5, or 5x1.1^20: 20 epochs of a factor 1.1
        start, _, growth = name.partition("x")
        factor, _, epochs = growth.partition("^")
        t = barrier_steepness(float(start), float(factor or 1), int(epochs or 0))
        produced[f"barrier_t{name}"] = extended_log_barrier(file.tensor("barrier_z"), t)
    return produced


def _bags(file: GoldenFile, logits: Tensor) -> dict[str, Any]:
    p = probabilities(logits, "sigmoid")[:, OBJECT : OBJECT + 1]
    boxes = rows_from_corners(file.tensor("mil_boxes"))
    produced = {"bbtp_pairwise": pairwise_smoothness(p)[0]}
    for mode in file.match(r"mil_unary_([a-z]+)"):
        produced |= _with_gradient(f"mil_unary_{mode}", bag_loss(p, boxes, mode), logits)
    for name in file.match(r"mil_approx_([a-z]+\d+)"):
        kind = name.rstrip("0123456789")
        loss = bag_loss(p, boxes, MODES[kind], kind, int(name.removeprefix(kind)))
        produced |= _with_gradient(f"mil_approx_{name}", loss, logits)
    return produced | _with_gradient("mil_pairwise", pairwise_smoothness(p, fill_boxes(boxes, p.shape)), logits)


def _volumes(file: GoldenFile) -> dict[str, Any]:
    logits, target = file.tensor("logits3d", requires_grad=True), file.tensor("target3d")
    p = probabilities(logits)
    bounds = precise_bounds(soft_sizes(one_hot(target, logits.shape[1])), MARGIN_3D)
    # the official function returns inside its loop over the batch
    tightness = projected_tightness(p[:1, OBJECT], target[:1, 0], PROJECTED_WIDTH, short_extent=True)
    return _with_gradient("paseg_tightness3d", tightness[None], logits) | {
        "paseg_sizeloss3d": size_loss(soft_sizes(p)[:, 1:], bounds[:, 1:], logits[0, 0].numel())
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits = file.tensor("logits", requires_grad=True)
    produced = _sizes(file, logits) | _tightness(file, logits) | _barriers(file)
    return produced | _bags(file, logits) | _volumes(file)
