"""cct.npz: a step of SSL4MIS' form, its perturbations of features, and perturbations and losses of the official code."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.networks.feature_perturbations import kept_elements, noisy_features, without_strongest
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.ramps import ramp_progress, sigmoid_rampup
from tests.golden.adapters._common import labeled_count, ssl4mis_weight
from tests.golden.framework import GoldenFile, grad
from tests.golden.reference.cross_consistency import (
    adversarial_direction,
    confident,
    guided_mask,
    jensen_shannon_as_coded,
    kept_kl,
    kept_mse,
    kl,
    pairwise_variance,
    pointwise,
)
from tests.golden.reference.supervised import ce_dice_loss, mean_loss

TRAINER = "nnUNetTrainerCCT"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.losses.consistency.softmax_mse",
    "nnunet_ssl.networks.feature_perturbations.kept_elements",
    "nnunet_ssl.networks.feature_perturbations.noisy_features",
    "nnunet_ssl.networks.feature_perturbations.without_strongest",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.ramps.ramp_progress",
    "nnunet_ssl.ramps.sigmoid_rampup",
)
_OFFICIAL = "one of the official code's thirty decoders; the trainer has SSL4MIS' three"
_LOSS = "an alternative loss of the official code, whose default is the squared difference"
REFERENCE_ONLY = {
    "nnunet_ssl.ramps.stepwise_progress": "SSL4MIS' ramp moves every 150 iterations, ours every iteration",
    "tests.golden.reference.cross_consistency.adversarial_direction": _OFFICIAL,
    "tests.golden.reference.cross_consistency.confident": _LOSS,
    "tests.golden.reference.cross_consistency.guided_mask": _OFFICIAL,
    "tests.golden.reference.cross_consistency.jensen_shannon_as_coded": _LOSS,
    "tests.golden.reference.cross_consistency.kept_kl": _LOSS,
    "tests.golden.reference.cross_consistency.kept_mse": _LOSS,
    "tests.golden.reference.cross_consistency.kl": _LOSS,
    "tests.golden.reference.cross_consistency.pairwise_variance": _LOSS,
    "tests.golden.reference.cross_consistency.pointwise": "stands for a decoder",
    "tests.golden.reference.supervised.ce_dice_loss": "the literature's supervised loss; our trainers have nnU-Net's",
    "tests.golden.reference.supervised.mean_loss": "all decoders count alike in SSL4MIS' supervised loss",
}
NOT_FOLLOWED = {
    "vat_r_adv_config": "a probe of 1e-6, whose effect is rounding noise in single precision: the direction is not defined"
}

# numbers that stand in the specification or in the sidecar's `meaning` only
CONSISTENCY, RAMP_LENGTH = 0.1, 200
OFFICIAL_RAMP = 800
MAIN = "0"  # number of the main decoder


def _step(file: GoldenFile) -> dict[str, Any]:
    logits = {i: file.tensor(f"logits_{i}", requires_grad=True) for i in file.match(r"logits_(\d+)")}
    labeled = labeled_count(file, "labels")
    target = file.tensor("labels")[:labeled]
    supervised = mean_loss([ce_dice_loss(z[:labeled], target) for z in logits.values()])
    terms = {i: softmax_mse(z[labeled:], logits[MAIN][labeled:]) for i, z in logits.items() if i != MAIN}
    consistency = mean_loss([*terms.values()])
    weight = ssl4mis_weight(file, "weight", consistency=CONSISTENCY, rampup=RAMP_LENGTH)
    parts = {"supervised": supervised, "consistency": consistency}
    return {
        "supervised": supervised,
        **{f"consistency_{i}": term for i, term in terms.items()},
        "consistency": consistency,
        "weight": weight,
        "loss": weighted_sum(parts, {"supervised": 1.0, "consistency": weight}),
        **{f"grad_consistency_{i}": grad(consistency, z) for i, z in logits.items()},
    }


def _perturbations(file: GoldenFile) -> dict[str, Any]:
    feature = file.tensor("feature2d")
    rate = file.constant("p", "dropout2d")
    produced = {
        "feature_dropout2d": without_strongest(feature, file.number("feature_dropout_u")),
        "dropout2d": kept_elements(feature, file.tensor("dropout_keep_mask"), rate),
    }
    for dim in file.match(r"noise(\dd)"):
        produced[f"feature_noise{dim}"] = noisy_features(file.tensor(f"feature{dim}"), file.tensor(f"noise{dim}"))
    return produced


def _official(file: GoldenFile) -> dict[str, Any]:
    features, low = file.tensor("off_feature"), file.tensor("off_pred_low")
    decode = pointwise(file.tensor("vat_w"), file.tensor("vat_b"))
    xi, eps, iterations = (file.constant(name, "vat_r_adv") for name in ("xi", "eps", "it"))
    main, *others = (file.tensor(f"logits_{i}") for i in file.match(r"logits_(\d+)"))
    target, first = probabilities(main), others[0]
    thresholds = {name: file.constant("threshold", f"off_{name}_conf") for name in ("mse", "kl")}
    final = file.constant("final_w", "off_weight")
    return {
        "off_context_masked": guided_mask(features, low, keep_foreground=True),
        "off_object_masked": guided_mask(features, low, keep_foreground=False),
        "vat_r_adv": adversarial_direction(decode, features, file.tensor("vat_d0"), xi, eps, iterations),
        "off_mse": softmax_mse(first, main),
        "off_mse_conf": kept_mse(first, target, confident(target, thresholds["mse"])),
        "off_kl": kl(first, target),
        "off_kl_conf": kept_kl(first, target, confident(target, thresholds["kl"])),
        "off_js": jensen_shannon_as_coded(first, target),
        "off_pairwise": pairwise_variance(others),
        "off_weight": [sigmoid_rampup(ramp_progress(i, OFFICIAL_RAMP), final) for i in file.numbers("off_weight_iter")],
    }


def adapt(file: GoldenFile) -> dict[str, Any]:
    return _step(file) | _perturbations(file) | _official(file)
