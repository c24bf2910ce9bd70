"""nnU-Net's selection of a model and of its postprocessing, on dense labels where labelsTr is sparse or partial.

`nnUNetv2_find_best_configuration` judges by `nnUNet_raw/<data set>/labelsTr` and `nnUNet_preprocessed/<data set>/gt_segmentations`,
and takes predictions from `nnUNet_results`. Here nnU-Net's own function runs in a process of its own in which the first two
variables name a temporary view of the data set: the plans, and the dense labels in both places.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.locks import only_writer
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.runs import Experiment, Fold, Run
from nnunet_ssl.preprocessing.dense_labels import REFERENCES as DENSE_REFERENCES

_FIND_BEST = (
    "from nnunetv2.evaluation.find_best_configuration import find_best_configuration_entry_point; "
    "find_best_configuration_entry_point()"
)
_SHOWN_LINES = 8  # of its output, where it fails


def check_folds(folds: Sequence[Fold], sparse: bool, partial: bool) -> None:
    """UserError where nnU-Net's selection cannot be made on dense labels."""
    if "all" in folds:
        raise UserError(
            "--write_crossval needs folds with validation cases of their own, for example -f 0 1 2 3 4, not `all`."
        )
    if not sparse and not partial:
        raise UserError(
            "--write_crossval is for sparse and partial labels. The labels of this data set are dense: "
            "nnUNetv2_find_best_configuration judges by them."
        )


def select_on_dense_labels(
    experiment: Experiment, runs: Sequence[Run], references: dict[str, Path], num_processes: int
) -> None:
    """Let nnU-Net choose among the trainers of `runs` and their ensembles, and decide on postprocessing.

    As always it writes `crossval_results_folds_*` of each model, `ensembles` and `inference_instructions.txt` of the data set, and
    prints the commands to predict with.

    Args:
        runs: every compared trainer, on every fold.
        references: validation case -> dense label file.

    Raises:
        UserError: the references are not dense labels, or nnU-Net fails, with the end of its output.
    """
    folders = {file.parent for file in references.values()}
    if {folder.name for folder in folders} != {DENSE_REFERENCES}:
        raise UserError(
            f"--write_crossval: not all validation cases of {experiment.dataset} have dense labels, and nnU-Net can only judge by "
            "sparse or partial ones. Put label maps of all classes into labelsTr_dense of the raw data set and run "
            f"`nnunet_ssl preprocess_unlabeled -d {experiment.dataset}`, or leave --write_crossval out."
        )
    trainers = list(dict.fromkeys(run.trainer for run in runs))
    without = [run for run in runs if not any((run.folder / "validation").glob("*.npz"))]
    if without and len(trainers) > 1:
        named = experiment.train_command(without[0].trainer, without[0].fold, "--val", "--npz")
        print(f"No ensembles: {len(without)} fold(s) have no probabilities. For the first of them: {named}")
    folds = list(dict.fromkeys(str(run.fold) for run in runs))
    words = [experiment.dataset, "-c", experiment.configuration, "-p", experiment.plans, "-tr", *trainers, "-f", *folds]
    words += ["-np", str(num_processes), *(["--disable_ensembling"] if without else [])]
    preprocessed = nnunet_folder("nnUNet_preprocessed") / experiment.dataset
    selection = nnunet_folder("nnUNet_results") / experiment.dataset / "inference_instructions.txt"
    with only_writer(selection), tempfile.TemporaryDirectory(prefix="nnunet_ssl_dense_") as view:
        for place in (("nnUNet_raw", "labelsTr"), ("nnUNet_preprocessed", "gt_segmentations")):
            folder = Path(view, place[0], experiment.dataset, place[1])
            folder.mkdir(parents=True)
            for file in references.values():
                shutil.copyfile(file, folder / file.name)
        plans = f"{experiment.plans}.json"
        shutil.copyfile(preprocessed / plans, Path(view, "nnUNet_preprocessed", experiment.dataset, plans))
        environment = {**os.environ, **{name: str(Path(view, name)) for name in ("nnUNet_raw", "nnUNet_preprocessed")}}
        done = subprocess.run(
            [sys.executable, "-c", _FIND_BEST, *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        lines = "\n".join(f"  {line}" for line in done.stdout.strip().splitlines()[-_SHOWN_LINES:])
        raise UserError(f"nnUNetv2_find_best_configuration failed on the dense labels:\n{lines}")
    print(f"nnU-Net's selection on the dense labels of {len(references)} validation cases:\n{done.stdout.strip()}")
