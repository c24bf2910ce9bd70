"""scribble2label.npz: one step of Scribble2Label in WSL4MIS, and one update of the ensemble."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.losses.cross_pseudo import filtered_cross_entropy
from nnunet_ssl.losses.region import masked_cross_entropy, split_ignored
from nnunet_ssl.predictions.ensemble_labels import confident_labels, update_ensemble
from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.adapters._common import largest_code
from tests.golden.framework import GoldenFile

TRAINER = "nnUNetTrainerScribble2Label"
USES = (
    "nnunet_ssl.losses.cross_pseudo.filtered_cross_entropy",
    "nnunet_ssl.losses.combine.weighted_sum",
)
# the ensemble is updated between epochs; tests/trainers/test_scribble2label.py sees each function called there
REFERENCE_ONLY = {
    "nnunet_ssl.predictions.ensemble_labels.confident_labels": "called after an epoch, not in a step",
    "nnunet_ssl.predictions.ensemble_labels.update_ensemble": "called after an epoch, not in a step",
    "nnunet_ssl.predictions.probabilities.probabilities": "called after an epoch, not in a step",
    "nnunet_ssl.losses.region.masked_cross_entropy": "the official loss on scribbles; our trainers have nnU-Net's",
    "nnunet_ssl.losses.region.split_ignored": "part of the official loss on scribbles",
}


def adapt(file: GoldenFile) -> dict[str, Any]:
    logits, ensemble = file.tensor("logits"), file.tensor("ensemble").movedim(-1, 1)
    unannotated = largest_code(file, "scribble")
    scribble, annotated = split_ignored(file.tensor("scribble")[:, None], unannotated, regions=False)
    labels = confident_labels(ensemble, annotated.logical_not(), file.constant("thr_conf"), unannotated)
    loss_u = filtered_cross_entropy(logits, labels, unannotated)
    supervised = masked_cross_entropy(logits, scribble, annotated)
    updated = update_ensemble(ensemble, probabilities(logits), file.constant("alpha"))
    return {
        "u_labels": labels[:, 0],
        "loss_u": loss_u,
        "loss": weighted_sum({"ce": supervised, "u": loss_u}, {"ce": 1.0, "u": file.constant("u_weight")}),
        "ensemble_item0_after_update": updated[0].movedim(0, -1),
    }
