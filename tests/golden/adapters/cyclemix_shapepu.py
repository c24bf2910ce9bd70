"""cyclemix_shapepu.npz: mixtures of classes and marginal loss of ShapePU; consistency, structure filter and mixing of CycleMix."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.cosine import cosine_distance
from nnunet_ssl.losses.positive_unlabeled import (
    class_shares,
    class_thresholds,
    estimate_mixture,
    marginal_loss,
    ruled_out,
)
from nnunet_ssl.losses.region import one_hot, split_ignored
from nnunet_ssl.patches.mixing import blend, copy_paste, cutout_masks
from nnunet_ssl.predictions.hard_labels import hard_labels, largest_structure
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.puzzle_mix import block_saliency, boundary_differences, transport_blocks, transport_plan

TRAINER = "nnUNetTrainerCycleMix"
USES = (
    "nnunet_ssl.predictions.hard_labels.hard_labels",
    "nnunet_ssl.predictions.hard_labels.largest_structure",
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.cosine.cosine_distance",
    "nnunet_ssl.losses.region.one_hot",
    "nnunet_ssl.patches.mixing.blend",
    "nnunet_ssl.patches.mixing.copy_paste",
    "nnunet_ssl.patches.mixing.cutout_masks",
)
_SHAPE_PU = "nnUNetTrainerShapePU calls it (tests/trainers/test_shape_pu.py sees that); a file names one trainer"
_PUZZLE = "a term of PuzzleMix's graph cut, which the trainer replaces by blocks drawn at random"
_TRANSPORT = "the official code moves blocks of the images but not of their labels; the trainer leaves blocks in place"
REFERENCE_ONLY = {
    "nnunet_ssl.losses.positive_unlabeled.class_shares": _SHAPE_PU,
    "nnunet_ssl.losses.positive_unlabeled.class_thresholds": _SHAPE_PU,
    "nnunet_ssl.losses.positive_unlabeled.estimate_mixture": _SHAPE_PU,
    "nnunet_ssl.losses.positive_unlabeled.marginal_loss": _SHAPE_PU,
    "nnunet_ssl.losses.positive_unlabeled.ruled_out": _SHAPE_PU,
    "nnunet_ssl.losses.region.split_ignored": "gives ShapePU's terms the annotated voxels; the trainer's base has them",
    "tests.golden.reference.puzzle_mix.block_saliency": _TRANSPORT,
    "tests.golden.reference.puzzle_mix.boundary_differences": _PUZZLE,
    "tests.golden.reference.puzzle_mix.transport_blocks": _TRANSPORT,
    "tests.golden.reference.puzzle_mix.transport_plan": _TRANSPORT,
}
NOT_FOLLOWED = {
    "shapepu_invariant_as_coded": "the (N, 1, H, W) mask is multiplied with an (N, H, W) map and broadcasts to (N, N, H, W): every "
    "sample is masked by the holes of all samples"
}

# numbers that stand in the sidecar's `meaning` only
TRANSPORT_EPS, NEIGHBORHOOD, CUTOUT_SEED = 0.8, 4, 7
AS_MANY_AS_IT_TAKES = 1_000_000  # steps; the official estimate has no limit


def _shape_pu(file: GoldenFile) -> dict[str, Any]:
    logits = file.tensor("logits", requires_grad=True)
    p = probabilities(logits)
    num_classes = logits.shape[1]
    target, annotated = split_ignored(file.tensor("scribble")[:, None], num_classes, regions=False)
    shares = class_shares(target, num_classes, annotated)
    mixture = estimate_mixture(p.detach(), shares, annotated, max_iterations=AS_MANY_AS_IT_TAKES)
    unannotated = annotated.logical_not()
    negative = ruled_out(p, class_thresholds(p, mixture, unannotated), unannotated)
    loss = marginal_loss(p, negative)
    return {
        "em_ratio": mixture,
        "pseudo_negative": negative,
        "pseudo_loss": loss,
        "pseudo_loss_grad": grad(loss, logits),
    }


def _cycle_mix_losses(file: GoldenFile) -> dict[str, Any]:
    logits = file.tensor("logits", requires_grad=True)
    p = probabilities(logits)
    structure = largest_structure(hard_labels(logits))
    terms = {
        "invariant": cosine_distance(p, file.tensor("probs_other")),
        "integrity": cosine_distance(p, one_hot(structure, logits.shape[1])),
    }
    invariant = weighted_sum(terms, {"invariant": file.constant("invariant_weight_cyclemix"), "integrity": 0.0})
    integrity = weighted_sum(terms, {"invariant": 0.0, "integrity": file.constant("integrity_weight")})
    return {
        "largest_component": structure[:, 0],
        "cyclemix_invariant": invariant,
        "cyclemix_invariant_grad": grad(invariant, logits),
        "integrity_loss": integrity,
        "integrity_loss_grad": grad(integrity, logits),
    }


def _mixing(file: GoldenFile) -> dict[str, Any]:
    image, mask, partner = file.tensor("image"), file.tensor("block_mask"), file.tensor("indices")
    blocks = mask.shape[2:]
    # one channel per class and one for what is not annotated
    target = one_hot(file.tensor("scribble")[:, None], len(file.inputs["logits"][0]) + 1)
    plan = transport_plan(mask, block_saliency(file.tensor("saliency")[:, None], blocks), TRANSPORT_EPS)
    smoothness = boundary_differences(image, image[partner], blocks, NEIGHBORHOOD)
    cut = cutout_masks(len(image), image.shape[2:], file.constant("cutout"), random=np.random.RandomState(CUTOUT_SEED))
    return {
        "mixed_image": blend(image, image[partner], mask),
        "mixed_target": blend(target, target[partner], mask),
        "transport_plan": plan,
        "transported_image": transport_blocks(image, plan, blocks),
        "neigh_pw_x": smoothness[0],
        "neigh_pw_y": smoothness[1],
        "cutout_mask": cut,
        "cutout_image": copy_paste(image, image.new_zeros(image.shape), cut),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    return _shape_pu(file) | _cycle_mix_losses(file) | _mixing(file)
