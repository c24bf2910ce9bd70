"""unimatch.npz: steps of UniMatch for medical and for natural images, of UniMatch V2, CutMix boxes, CorrMatch's threshold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.self_training import confident_cross_entropy, confident_dice_loss
from nnunet_ssl.networks.dropout import complementary_masks, scale_channels
from nnunet_ssl.patches.mixing import copy_paste, draw_occasional_masks
from nnunet_ssl.predictions.hard_labels import label_and_confidence
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.supervised import ce_dice_loss
from tests.golden.reference.unimatch import (
    adaptive_threshold,
    annotated_cross_entropy,
    at_least,
    drawn_channels,
    everywhere,
    is_image,
    without,
)

TRAINER = "nnUNetTrainerUniMatch"
_V2 = "with complementary_dropout, the perturbation of V2; test_unimatch.py sees it called"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.self_training.confident_cross_entropy",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.predictions.hard_labels.label_and_confidence",
)
_CUTMIX = "where patches show most of an image; test_unimatch.py sees it called"
REFERENCE_ONLY = {
    "nnunet_ssl.patches.mixing.copy_paste": _CUTMIX,
    "nnunet_ssl.patches.mixing.draw_occasional_masks": _CUTMIX,
    "nnunet_ssl.losses.self_training.confident_dice_loss": "with form = 'dice'; test_unimatch.py sees it called",
    "nnunet_ssl.networks.dropout.complementary_masks": _V2,
    "nnunet_ssl.networks.dropout.scale_channels": _V2,
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.unimatch.adaptive_threshold": "CorrMatch's; our threshold is constant, as UniMatch's",
    "tests.golden.reference.unimatch.annotated_cross_entropy": "the supervised loss for natural images",
    "tests.golden.reference.unimatch.at_least": "the comparison with the threshold stands in the trainer",
    "tests.golden.reference.unimatch.drawn_channels": "gives what was drawn",
    "tests.golden.reference.unimatch.everywhere": "the images of the medical step have no padding",
    "tests.golden.reference.unimatch.is_image": "our loader gives the mask of the image",
    "tests.golden.reference.unimatch.without": "of a mask of ignored voxels those that count",
}
SINGLE_PRECISION = ("corr_thresh",)

# the weights of the terms stand in the specification only: half of 1, 0.25, 0.25, 0.5, and half of 1, 0.5, 0.5 in V2
WEIGHTS = {"loss_x": 0.5, "loss_u_s1": 0.125, "loss_u_s2": 0.125, "loss_u_w_fp": 0.25}
WEIGHTS_V2 = {"loss_x": 0.5, "loss_u_s1": 0.25, "loss_u_s2": 0.25}
LOGITS = {"lx": "logits_x", "lw": "logits_u_w", "lfp": "logits_u_fp", "ls1": "logits_u_s1", "ls2": "logits_u_s2"}


def _kept(file: GoldenFile, view: str) -> Tensor:
    """The mask `(B, 1, H, W)` of what stays of the first image."""
    return without(file.tensor(f"box{view}").unsqueeze(1))


def _boxes(file: GoldenFile) -> Tensor:
    key = "cutmix_boxes"
    count, *shape = file.byproduct(key).shape
    share, aspect = (
        [file.constant(name, key) for name in pair] for pair in (("size_min", "size_max"), ("ratio_1", "ratio_2"))
    )
    numbers = np.random.RandomState(file.constant("seed_numpy", key))
    coin = random.Random(file.constant("seed_random", key)).random
    masks = draw_occasional_masks(count, shape, file.constant("p", key), tuple(share), tuple(aspect), numbers, coin)
    return masks.logical_not()[:, 0]


def _medical(file: GoldenFile) -> dict[str, Any]:
    z = {name: file.tensor(key, requires_grad=True) for name, key in LOGITS.items()}
    own = label_and_confidence(probabilities(z["lw"]))
    partner = label_and_confidence(probabilities(file.tensor("logits_u_w_mix")))
    taught = {"w_fp": own} | {
        f"s{view}": tuple(copy_paste(a, b, _kept(file, view)) for a, b in zip(own, partner)) for view in ("1", "2")
    }
    terms = {"loss_x": ce_dice_loss(z["lx"], file.tensor("labels"))}
    for name, logits in (("s1", z["ls1"]), ("s2", z["ls2"]), ("w_fp", z["lfp"])):
        label, confidence = taught[name]
        sure = at_least(confidence, file.constant("conf_thresh", f"med_loss_u_{name}"))
        terms[f"loss_u_{name}"] = confident_dice_loss(logits, label, sure, everywhere(sure))
    loss = weighted_sum(terms, WEIGHTS)
    ignored = without(file.tensor("dice_ignore_mask").unsqueeze(1))
    return {
        "conf_u_w": own[1][:, 0],
        "pseudo_s1": taught["s1"][0][:, 0],
        "conf_s1": taught["s1"][1][:, 0],
        **{f"med_{name}": term for name, term in terms.items()},
        "med_loss": loss,
        **{f"med_grad_{name}": grad(loss, logits) for name, logits in z.items()},
        "dice_ignore": confident_dice_loss(z["lx"], file.tensor("labels").unsqueeze(1), ignored, everywhere(ignored)),
    }


def _natural(
    file: GoldenFile, prefix: str, weights: dict[str, float], partner, partner_ignore: Tensor
) -> dict[str, Any]:
    """A step with the cross entropy of confident voxels; `partner`: label and confidence of the images that boxes come from."""
    own, ignore = label_and_confidence(probabilities(file.tensor("logits_u_w"))), file.tensor("nat_ignore").unsqueeze(1)
    terms = {"loss_x": annotated_cross_entropy(file.tensor("logits_x"), file.tensor("nat_labels"))}
    for view in ("1", "2"):
        mask = _kept(file, view)
        label, confidence, ignored = (
            copy_paste(a, b, mask) for a, b in zip((*own, ignore), (*partner, partner_ignore))
        )
        sure = at_least(confidence, file.constant("conf_thresh", f"{prefix}_loss_u_s{view}"))
        logits = file.tensor(f"logits_u_s{view}")
        terms[f"loss_u_s{view}"] = confident_cross_entropy(logits, label, sure, is_image(ignored))
    if "loss_u_w_fp" in weights:
        sure = at_least(own[1], file.constant("conf_thresh", f"{prefix}_loss_u_w_fp"))
        terms["loss_u_w_fp"] = confident_cross_entropy(file.tensor("logits_u_fp"), own[0], sure, is_image(ignore))
    return {f"{prefix}_{name}": term for name, term in (terms | {"loss": weighted_sum(terms, weights)}).items()}


def _second_version(file: GoldenFile) -> dict[str, Any]:
    own = label_and_confidence(probabilities(file.tensor("logits_u_w")))
    ignore = file.tensor("nat_ignore").unsqueeze(1)
    image = file.tensor("img_u_s1")
    masks = complementary_masks(*drawn_channels(torch.from_numpy(file.byproduct("v2_comp_mask"))))
    tokens = file.tensor("v2_feat").transpose(1, 2)
    return {
        **_natural(file, "v2", WEIGHTS_V2, tuple(x.flip(0) for x in own), ignore.flip(0)),
        "v2_s1_mixed": copy_paste(image, image.flip(0), _kept(file, "1")),
        "v2_comp_mask": torch.cat(masks),
        "v2_feat_dropped": scale_channels(tokens, *masks).transpose(1, 2),
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    produced = _medical(file) | _second_version(file) | {"cutmix_boxes": _boxes(file)}
    for view in ("1", "2"):
        pair = (file.tensor(f"img_u_s{view}{suffix}") for suffix in ("", "_mix"))
        produced[f"s{view}_mixed"] = copy_paste(*pair, _kept(file, view))
    partner = label_and_confidence(probabilities(file.tensor("logits_u_w_mix")))
    produced |= _natural(file, "nat", WEIGHTS, partner, file.tensor("nat_ignore_mix").unsqueeze(1))
    batches = [probabilities(file.tensor(key)) for key in ("logits_u_w", "logits_u_w_mix", "logits_x")]
    start, momentum = (file.constant(name, "corr_thresh") for name in ("thresh_init", "momentum"))
    image = is_image(file.tensor("nat_ignore"))
    return produced | {"corr_thresh": adaptive_threshold(start, batches, image, momentum)}
