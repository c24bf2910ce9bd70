"""nnfiltermatch.npz: the filter of unlabeled cases by entropy."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.predictions.entropy_filter import case_entropy, entropy_threshold, is_uncertain
from tests.golden.framework import GoldenFile

TRAINER = "nnUNetTrainerFilterMatch"
USES = ()  # the filter works between epochs; tests/trainers/test_filter_match.py sees each function called there
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.entropy_filter.case_entropy": "called after an epoch, not in a step",
    "nnunet_ssl.predictions.entropy_filter.entropy_threshold": "called after an epoch, not in a step",
    "nnunet_ssl.predictions.entropy_filter.is_uncertain": "called after an epoch, not in a step",
}
SINGLE_PRECISION = ("entropy_filter/out/case_entropy",)


def adapt(file: GoldenFile) -> dict[str, Any]:
    percentile = file.constant("percentile", "entropy_filter/out/threshold")
    entropies = file.inputs["entropy_filter/in/entropy_sums"]
    return {
        "entropy_filter/out/case_entropy": case_entropy(
            file.inputs["entropy_filter/in/prob"],
            reduction="sum",
            eps=file.constant("eps", "entropy_filter/out/case_entropy"),
        ),
        "entropy_filter/out/threshold": entropy_threshold(entropies, percentile),
        "entropy_filter/out/kept": is_uncertain(entropies, percentile),
    }
