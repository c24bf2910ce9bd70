"""fixmatch.npz: steps of SSL4MIS' two scripts, and CTAugment's rates and operations."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.predictions.hard_labels import hard_labels
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.ctaugment import sampling_weights, transformed, updated_rates
from tests.golden.reference.fixmatch import (
    above,
    complementary_loss,
    full_loss,
    label_of_masked,
    relative_range,
    spatial_certainty,
    unlabeled_loss,
)

TRAINER = "nnUNetTrainerFixMatch"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
_SSL4MIS = "SSL4MIS' form, whose threshold is nearly always met; ours has the confidence of the paper"
_CTA = "works on images of 8 bit; ours has nnU-Net's intensity transforms"
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.hard_labels.hard_labels": "of the teacher in SSL4MIS; ours are those of the network, with confidence",
    "nnunet_ssl.ramps.stepwise_progress": "SSL4MIS' ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.ctaugment.sampling_weights": _CTA,
    "tests.golden.reference.ctaugment.transformed": _CTA,
    "tests.golden.reference.ctaugment.updated_rates": _CTA,
    "tests.golden.reference.fixmatch.above": _SSL4MIS,
    "tests.golden.reference.fixmatch.complementary_loss": _SSL4MIS,
    "tests.golden.reference.fixmatch.full_loss": "SSL4MIS' loss of both kinds of patches; ours has nnU-Net's and UniMatch's",
    "tests.golden.reference.fixmatch.label_of_masked": _SSL4MIS,
    "tests.golden.reference.fixmatch.relative_range": _SSL4MIS,
    "tests.golden.reference.fixmatch.spatial_certainty": _SSL4MIS,
    "tests.golden.reference.fixmatch.unlabeled_loss": _SSL4MIS,
}

# numbers that stand in the specification or in the sidecar's `meaning` only
CONSISTENCY, RAMP_LENGTH = 0.1, 200
BINS = {"autocontrast": 17, "posterize": 8, "rescale_0": 17, "rescale_1": 6}
# which of cta_update_levels an operation gets, and with which proximity
UPDATES = {
    "autocontrast": {0: 0.9, 4: 1.0},
    "rescale_0": {1: 0.5},
    "rescale_1": {2: 0.5},
    "posterize": {3: 0.2},
}


def _weight(file: GoldenFile) -> float:
    return ssl4mis_weight(file, "weight", consistency=CONSISTENCY, rampup=RAMP_LENGTH)


def _standard(file: GoldenFile) -> dict[str, Any]:
    weak, strong = (file.tensor(f"logits_{view}", requires_grad=True) for view in ("weak", "strong"))
    p_weak, p_strong = probabilities(weak).detach(), probabilities(strong)
    normalized = relative_range(p_weak)
    mask = above(normalized, file.constant("conf_thresh", "pseudo_mask"))
    labeled = labeled_count(file, "logits_weak", "pseudo_label")
    label = label_of_masked(p_weak, mask)[labeled:]
    certainty = spatial_certainty(p_strong)
    complementary = complementary_loss(p_strong, p_weak, certainty)
    terms = {
        "sup_loss": full_loss(weak[:labeled], file.tensor("labels")[:labeled]),
        "unsup_loss": unlabeled_loss(strong[labeled:], label, certainty, complementary),
    }
    weight = _weight(file)
    loss = weighted_sum(terms, {"sup_loss": 1.0, "unsup_loss": weight})
    return terms | {
        "normalized": normalized,
        "pseudo_mask": mask,
        "pseudo_label": label[:, 0],
        "as_weight": certainty,
        "comp_loss": complementary,
        "weight": weight,
        "loss": loss,
        "grad_weak": grad(loss, weak),
        "grad_strong": grad(loss, strong),
    }


def _with_ctaugment(file: GoldenFile) -> dict[str, Any]:
    labeled = labeled_count(file, "logits_weak", "pseudo_label")
    weak, strong, teacher = (file.tensor(key) for key in ("logits_weak", "logits_strong", "cta_ema_logits"))
    terms = {
        "cta_sup_loss": full_loss(weak[:labeled], file.tensor("labels")[:labeled]),
        "cta_unsup_loss": full_loss(strong[labeled:], hard_labels(teacher)[labeled:]),
    }
    levels, decay = file.numbers("cta_update_levels"), file.constant("decay", "cta_p")
    rates = {}
    for name, updates in UPDATES.items():
        chosen = [levels[i] for i in updates]
        rates[f"cta_rates_after_{name}"] = updated_rates(BINS[name], chosen, list(updates.values()), decay)
    image, level = file.inputs["cta_image"], file.number("cta_level")
    names = [key.removeprefix("cta_op_") for key in file.outputs if key.startswith("cta_op_")]
    return {
        **terms,
        "cta_loss": weighted_sum(terms, {"cta_sup_loss": 1.0, "cta_unsup_loss": _weight(file)}),
        "cta_p": sampling_weights(file.inputs["cta_rates"], file.constant("th", "cta_p")),
        **rates,
        **{f"cta_op_{name}": transformed(image, name, level) for name in names},
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    return _standard(file) | _with_ctaugment(file)
