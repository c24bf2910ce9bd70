"""The subcommands of `nnunet_ssl`, one module each, with its name.

A module has `add_arguments(parser)`, `run(args)` and the strings `DESCRIPTION` and `EXAMPLE`; the work is done by the rooms
that it calls. `arguments` has what several share, `steps` runs commands one after another.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# name -> what `nnunet_ssl -h` says of it
COMMANDS = {
    "convert": "bring LA, ACDC, BraTS, MSCMR or your scribbles into nnU-Net raw format",
    "plan_and_preprocess": "nnU-Net's planning, then also the unlabeled images",
    "preprocess_unlabeled": "only the unlabeled images, with existing plans",
    "merge": "one data set with partial labels from several with different classes",
    "split": "write splits_final.json for a budget of labels",
    "weaken": "make scribbles, points, boxes, single slices or partial labels from dense ones",
    "expand": "grow scribbles or points into denser labels, before training",
    "pseudo_label": "label the unlabeled images with a finished model, for nnUNetTrainerPseudoLabels",
    "check": "counts, leaks between unlabeled and test cases, duplicates, outliers",
    "compare": "compare trainers case by case, with paired tests",
    "export": "write a model that nnU-Net predicts with without this package",
    "trainers": "list the trainers",
    "trainers_path": "print the folder for nnUNet_extTrainer",
    "demo": "everything once, in minutes, on phantoms or on your copy of LA",
}


def load(name: str) -> ModuleType:
    """The module of a subcommand; the others are not imported, so that `nnunet_ssl -h` does not wait for torch."""
    return importlib.import_module(f"{__name__}.{name}")
