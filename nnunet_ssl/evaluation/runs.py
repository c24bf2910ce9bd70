"""The results of trained models: their folders, what these say about the training, and nnU-Net's final validation.

nnU-Net's results lie in `nnUNet_results/<data set>/<TRAINER>__<PLANS>__<CONFIGURATION>/fold_<F>/`. Everything here reads
these folders as nnU-Net leaves them, so that stock trainers and trainers of other packages can be compared too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.annotated_classes import PartialLabels
from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.json_files import expect, read_json
from nnunet_ssl.data.label_files import named_codes
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.model_files import RETRAIN, read_checkpoint
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.data.raw_dataset import load_dataset_json
from nnunet_ssl.data.splits import SEEN_VALIDATION
from nnunet_ssl.data.texts import whole_number
from nnunet_ssl.data.unlabeled_list import known_groups
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.preprocessing.dense_labels import REFERENCES as DENSE_REFERENCES

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SHOWN = 5  # cases that a message names

Fold = int | str  # a number or "all"
Split = Mapping[str, Sequence[str]]

_LOGGED_SPLIT = re.compile(r"This (?:random 80:20 )?split has (\d+) training and (\d+) validation cases")
_LOGGED_EPOCH = re.compile(r": Epoch (\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Experiment:
    """Data set, configuration and plans that the compared trainers have in common."""

    dataset: str
    configuration: str
    plans: str = "nnUNetPlans"

    def model_folder(self, trainer: str) -> Path:
        """Folder in nnUNet_results that holds all folds of a trainer."""
        return nnunet_folder("nnUNet_results") / self.dataset / f"{trainer}__{self.plans}__{self.configuration}"

    def train_command(self, trainer: str, fold: Fold, *switches: str) -> str:
        plans = [] if self.plans == "nnUNetPlans" else ["-p", self.plans]
        words = [
            "nnUNetv2_train",
            str(int(dataset_number(self.dataset))),
            self.configuration,
            str(fold),
            "-tr",
            trainer,
        ]
        return " ".join([*words, *plans, *switches])


@dataclass(frozen=True)
class Run:
    """One trainer on one fold, with what its folder says about the training. None: not recorded."""

    trainer: str
    fold: Fold
    folder: Path
    epochs: int | None
    iterations_per_epoch: int | None
    seed: int | None
    splits: Mapping[str, Split]  # where it is recorded -> its cases; stock nnU-Net does not record them
    logged_counts: tuple[tuple[int, int], ...]  # numbers of training and validation cases in the log of the training

    @property
    def split(self) -> Split | None:
        return next(iter(self.splits.values()), None)

    @property
    def num_unlabeled(self) -> int | None:
        return len(self.split["unlabeled"]) if self.split and "unlabeled" in self.split else None

    @property
    def seen_validation(self) -> Sequence[str]:
        """Validation cases whose labels have reached the training through pseudo labels."""
        return self.split.get(SEEN_VALIDATION, ()) if self.split else ()


@dataclass(frozen=True)
class LabelDefinition:
    """What is evaluated. `classes`: name -> label or labels of a region, without background. `codes`: all numbers that a reference
    may hold. `partial`: which classes are annotated in which case, None: all in all."""

    classes: dict[str, int | tuple[int, ...]]
    ignore_label: int | None
    file_ending: str
    codes: frozenset[int]
    partial: PartialLabels | None = None

    def annotated(self, case: str, reference: str | Path) -> dict[str, int | tuple[int, ...]]:
        """The classes that the reference of a case annotates. Dense validation labels have all."""
        if self.partial is None or Path(reference).parent.name == DENSE_REFERENCES:
            return self.classes
        return {name: label for name, label in self.classes.items() if self.partial.is_annotated(case, label)}


def patients(experiment: Experiment) -> dict[str, str]:
    """Case -> patient, see `known_groups`."""
    import nnunetv2.paths

    variables = [name for name in ("nnUNet_preprocessed", "nnUNet_raw") if getattr(nnunetv2.paths, name).is_set()]
    return known_groups(*(nnunet_folder(variable) / experiment.dataset for variable in variables))


def parse_folds(texts: Sequence[str]) -> tuple[Fold, ...]:
    """`["0", "1"]` -> (0, 1); `["all"]` -> ("all",), nnU-Net's fold that trains on all cases."""
    if not all(text == "all" or whole_number(text) is not None for text in texts):
        raise UserError(
            f"-f {' '.join(texts)}: allowed are numbers of folds, or `all` for the model trained on all cases."
        )
    folds = tuple(text if text == "all" else int(text) for text in texts)
    if "all" in folds and len(folds) > 1:
        raise UserError(
            f"-f {' '.join(texts)}: `all` is nnU-Net's model that was trained on all cases. It has validated on its "
            "training cases and cannot be mixed with other folds. Compare it alone: -f all"
        )
    if len(set(folds)) < len(folds):
        raise UserError(f"-f {' '.join(texts)} names a fold twice.")
    return folds


def find_run(experiment: Experiment, trainer: str, fold: Fold, checkpoint_name: str, trust: bool = False) -> Run:
    """Look up one run and read what it says about itself.

    Raises:
        UserError: it is missing (with the command that trains it); its checkpoint cannot be read, or is not trusted.
    """
    model_folder = experiment.model_folder(trainer)
    command = experiment.train_command(trainer, fold)
    if not model_folder.is_dir():
        ending = f"__{experiment.plans}__{experiment.configuration}"
        present = sorted(path.name[: -len(ending)] for path in model_folder.parent.glob(f"*{ending}"))
        raise UserError(
            f"{trainer} has no results: {model_folder} does not exist. Trainers with results for "
            f"{experiment.configuration} and {experiment.plans}: {', '.join(present) or 'none'}. Train it: {command}"
        )
    folder = model_folder / f"fold_{fold}"
    if not folder.is_dir():
        present = sorted(path.name for path in model_folder.glob("fold_*"))
        raise UserError(f"{folder} does not exist; found {', '.join(present) or 'no fold'}. Train it: {command}")
    file = folder / checkpoint_name
    checkpoint = read_checkpoint(file, trust) if os.path.lexists(file) else {}
    ssl_state = checkpoint.get("ssl_state") or {}
    logged = checkpoint.get("logging") or {}  # left out where somebody has made a checkpoint small
    return Run(
        trainer=trainer,
        fold=fold,
        folder=folder,
        epochs=len(logged["train_losses"]) if "train_losses" in logged else None,
        iterations_per_epoch=_iterations_per_epoch(folder, trainer),
        seed=_number_in_name(trainer, r"_seed(\d+)") if "_seed" in trainer else ssl_state.get("seed"),
        splits=_recorded_splits(folder, ssl_state),
        logged_counts=_logged_counts(folder),
    )


def label_definition(experiment: Experiment, trainers: Sequence[str]) -> LabelDefinition:
    """Labels or regions of the data set as the models know them. UserError if the models know different ones."""
    described = {
        trainer: load_dataset_json(experiment.model_folder(trainer) / "dataset.json", RETRAIN) for trainer in trainers
    }
    first = trainers[0]
    for trainer in trainers[1:]:
        for key in ("labels", "regions_class_order", "file_ending", PARTIAL_LABELS):
            one, other = described[first].get(key), described[trainer].get(key)
            if one != other:
                raise UserError(
                    f"{first} and {trainer} were trained with different data sets: '{key}' of "
                    f"{experiment.model_folder(first) / 'dataset.json'} is {one}, of "
                    f"{experiment.model_folder(trainer) / 'dataset.json'} it is {other}. Train both with the present "
                    f"data set: {experiment.train_command(trainer, 0)}"
                )
    dataset = described[first]
    manager = plans_of(experiment, first).get_label_manager(dataset)
    targets = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {_as_tuple(label): name for name, label in dataset["labels"].items()}
    classes = {
        names.get(_as_tuple(target), str(target)): target if isinstance(target, tuple) else int(target)
        for target in (tuple(target) if isinstance(target, list) else target for target in targets)
    }
    partial = PartialLabels.of(dataset, experiment.model_folder(first) / "dataset.json")
    codes = frozenset(named_codes(dataset, ignore=True))
    return LabelDefinition(classes, manager.ignore_label, dataset["file_ending"], codes, partial)


def reader_writer(experiment: Experiment, trainer: str):
    """An instance of the class with which nnU-Net reads the files of this data set."""
    return plans_of(experiment, trainer).image_reader_writer_class()


def plans_of(experiment: Experiment, trainer: str) -> PlansManager:
    """The plans that a model was trained with. UserError where they are missing or damaged, or lack the configuration."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    file = experiment.model_folder(trainer) / "plans.json"
    content = read_plans(file, RETRAIN)
    names = content["configurations"]
    allowed = f"an object with '{experiment.configuration}'"
    expect(experiment.configuration in names, file, "configurations", list(names), allowed, RETRAIN)
    return PlansManager(content)


def differing_plans(experiment: Experiment, trainers: Sequence[str]) -> list[str]:
    """Notes on models whose plans have the same name but other content than those of the first trainer."""
    contents = {trainer: plans_of(experiment, trainer).plans["configurations"] for trainer in trainers}
    notes = []
    for trainer in trainers[1:]:
        one, other = (contents[name][experiment.configuration] for name in (trainers[0], trainer))
        keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        if keys:
            notes.append(f"{trainers[0]} and {trainer} were trained with different plans: {', '.join(keys)} differ.")
    return notes


# ---------------------------------------------------------------------------------------------------------------- splits


def _recorded_splits(folder: Path, ssl_state: Mapping) -> dict[str, Split]:
    """source -> split that our trainers write into the checkpoint and beside it."""
    records = {"cases in the checkpoint": ssl_state.get("split")}
    if (folder / "split.json").exists():
        records["cases in split.json"] = load_json(folder / "split.json")
    records = {source: split for source, split in records.items() if split is not None}
    for source, split in records.items():
        fine = isinstance(split, dict) and {"train", "val"} <= split.keys()
        for side in {"train", "val", "unlabeled", SEEN_VALIDATION} & split.keys() if fine else ():
            cases = split[side]
            fine = fine and isinstance(cases, (list, tuple)) and all(isinstance(case, str) for case in cases)
        place = f"{folder}/split.json" if source.endswith(".json") else f"{folder}, the checkpoint"
        expect(fine, place, "train, val", split, "lists of case ids", "Train again.")
    return records


def _logged_counts(folder: Path) -> tuple[tuple[int, int], ...]:
    """(training, validation) numbers of cases in the logs of the last training from epoch 0 on, one per (re)start.

    Logs without an epoch (of `--val`) tell the split of that day and not the one of the training.
    """
    logs = sorted(folder.glob("training_log_*.txt"), key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem)])
    counts: list[tuple[int, int]] = []
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace")
        epochs = [int(number) for number in _LOGGED_EPOCH.findall(text)]
        if not epochs:
            continue
        if epochs[0] == 0:
            counts = []
        counts += [(int(train), int(val)) for train, val in _LOGGED_SPLIT.findall(text)]
    return tuple(counts)


# ------------------------------------------------------------------------------------------------------------ validation


def validation_pairs(experiment: Experiment, run: Run, file_ending: str) -> dict[str, tuple[Path, Path]]:
    """case -> (prediction, reference) of nnU-Net's final validation; dense references where labels are sparse.

    Raises:
        UserError: no validation, an unfinished one, or a reference is missing.
    """
    folder, command = run.folder / "validation", experiment.train_command(run.trainer, run.fold, "--val")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: {run.trainer} was not validated. Validate it: {command}")
    predictions = files_with_ending(folder, file_ending)
    if not predictions or not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder} is unfinished: {len(predictions)} predictions and no summary.json, which nnU-Net writes last. "
            f"Validate again: {command}"
        )
    base = nnunet_folder("nnUNet_preprocessed") / experiment.dataset
    reference_folder = base / DENSE_REFERENCES
    references = files_with_ending(reference_folder, file_ending)
    if not predictions.keys() <= references.keys():
        reference_folder = base / "gt_segmentations"
        references = files_with_ending(reference_folder, file_ending)
    missing = sorted(predictions.keys() - references.keys())
    if missing:
        raise UserError(
            f"{reference_folder} has no reference for {len(missing)} validation cases: {some(missing, SHOWN)}. "
            f"Preprocess again: nnunet_ssl plan_and_preprocess -d {int(dataset_number(experiment.dataset))} "
            f"-c {experiment.configuration}"
        )
    return {case: (file, references[case]) for case, file in predictions.items()}


def nnunet_dice(run: Run, labels: LabelDefinition, reference_folder: str) -> dict[tuple[str, str], float]:
    """(case, class) -> Dice as nnU-Net wrote it to `validation/summary.json`; NaN where both masks are empty.

    Left out is what was evaluated on files of another folder than `reference_folder` (its name): nnU-Net's own trainers
    validate on sparse labels also where there are dense ones.
    """
    from nnunetv2.evaluation.evaluate_predictions import key_to_label_or_region

    file = run.folder / "validation" / "summary.json"
    again = "Delete it and validate again with `nnUNetv2_train ... --val`."
    content = read_json(file, remedy=again)
    found = {}
    try:
        for entry in content["metric_per_case"]:
            if Path(entry["reference_file"]).parent.name != reference_folder:
                continue
            metrics = {key_to_label_or_region(key): values for key, values in entry["metrics"].items()}
            case = Path(entry["prediction_file"]).name[: -len(labels.file_ending)]
            for name, label in labels.classes.items():
                found[case, name] = float(metrics[label]["Dice"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # whatever is in place of what nnU-Net writes
        raise UserError(f"{file} is not nnU-Net's summary of these classes ({error!r}). {again}") from error
    return found


def summary_folders(run: Run) -> set[str]:
    """Names of the folders with the references of nnU-Net's `validation/summary.json`, which `nnunet_dice` has read."""
    content = read_json(run.folder / "validation" / "summary.json")
    return {Path(entry["reference_file"]).parent.name for entry in content["metric_per_case"]}


def validation_is_older(run: Run, checkpoint_name: str) -> bool:
    """Whether the checkpoint was written after the validation: then the validation is of an earlier training."""
    checkpoint, summary = run.folder / checkpoint_name, run.folder / "validation" / "summary.json"
    return checkpoint.is_file() and checkpoint.stat().st_mtime > summary.stat().st_mtime


# --------------------------------------------------------------------------------------------------------------- reading


def _iterations_per_epoch(folder: Path, trainer: str) -> int | None:
    """nnU-Net keeps the attributes of the trainer in debug.json; else the suffix of the trainer's name tells."""
    if (folder / "debug.json").exists():
        value = whole_number(str(load_json(folder / "debug.json").get("num_iterations_per_epoch", "")))
        if value is not None:
            return value
    return _number_in_name(trainer, r"_(\d+)iters")


def _number_in_name(trainer: str, pattern: str) -> int | None:
    match = re.search(pattern, trainer)
    return int(match[1]) if match else None


def load_json(file: Path) -> dict:
    """A JSON file that nnU-Net writes when a training starts. UserError where it is missing or damaged."""
    return read_json(file, remedy=RETRAIN)


def _as_tuple(label: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(map(int, label)) if isinstance(label, (tuple, list)) else (int(label),)
