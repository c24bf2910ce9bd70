"""mumford_shah.npz: the functional of the paper, its mean in PyMIC, and the call of WSL4MIS."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.mumford_shah import level_set, mumford_shah, total_variation
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.framework import GoldenFile, grad

TRAINER = "nnUNetTrainerScribbleMumfordShah"
USES = (
    "nnunet_ssl.losses.combine.weighted_sum",
    "nnunet_ssl.predictions.probabilities.probabilities",
    "nnunet_ssl.losses.mumford_shah.level_set",
    "nnunet_ssl.losses.mumford_shah.mumford_shah",
    "nnunet_ssl.losses.mumford_shah.total_variation",
)
REFERENCE_ONLY: dict[str, str] = {}

PAPER_TV_WEIGHT = 0.001  # stands in the sidecar's `meaning` only


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits, image = file.tensor("logits", requires_grad=True), file.tensor("image")
    p = probabilities(logits)
    variation = total_variation(p)
    paper = weighted_sum({"level_set": level_set(p, image), "tv": variation}, {"level_set": 1.0, "tv": PAPER_TV_WEIGHT})
    # WSL4MIS hands image and prediction over in the wrong order: image-weighted scatter of the probabilities
    swapped = weighted_sum({"level_set": level_set(image, p), "tv": variation}, {"level_set": 1.0, "tv": 1.0})
    mean = mumford_shah(p, image)
    return {
        "wsl_as_called": swapped,
        "wsl_as_called_grad": grad(swapped, logits),
        "levelset": level_set(p, image),
        "levelset_2ch": level_set(p, file.tensor("image2ch")),
        "tv_l1": variation,
        "tv_l2": total_variation(p, order=2),
        "paper_total": paper,
        "paper_total_grad": grad(paper, logits),
        "pymic_ms": mean,
        "pymic_ms_grad": grad(mean, logits),
    }
