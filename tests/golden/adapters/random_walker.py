"""random_walker.npz: scribbles of one slice expanded to labels of every pixel, also where a class has no scribble."""

from __future__ import annotations

from typing import Any

from nnunet_ssl.weak.seed_expansion import random_walker_labels
from tests.golden.framework import GoldenFile

TRAINER = None  # an offline step: nnunet_ssl expand
USES = ()
REFERENCE_ONLY = {
    "nnunet_ssl.weak.seed_expansion.random_walker_labels": "called by `nnunet_ssl expand`, before training"
}

# stand in the sidecar's `meaning` only
UNANNOTATED = 4
FOREGROUND = range(1, UNANNOTATED)
REMOVED_CLASS = 1


def adapt(file: GoldenFile) -> dict[str, Any]:
    scribble = file.inputs["scribble"]
    without = scribble.copy()
    without[without == REMOVED_CLASS] = UNANNOTATED

    def labels(seeds):
        return random_walker_labels(
            file.inputs["image"][None],
            seeds,
            UNANNOTATED,
            beta=file.constant("beta"),
            margin=file.constant("sigma"),
            mode=file.constant("mode"),
            required=FOREGROUND,
        )

    return {"pseudo_label": labels(scribble), "pseudo_label_class_missing": labels(without)}
