"""The cases of one training run: which are labeled, unlabeled and for validation, and whether they may be used together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.data.leakage import find_overlaps, of_same_patients
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.splits import SEEN_VALIDATION, load_splits, split_hash
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError, listed, some
from nnunet_ssl.preprocessing.preprocessed import unlabeled_folder, verify_unlabeled

SMALLEST_STOCK_SPLIT = 5  # cases; nnU-Net makes five folds


@dataclass(frozen=True)
class TrainingCases:
    """What a run trains and validates on.

    Attributes:
        hidden: the cases that lie in `imagesTr`, with labels that `nnunet_ssl split` hides.
        folders: unlabeled case -> folder of its preprocessed image.
        notes: what the user should read in the log.
        seen_validation: validation cases whose labels networks have learned that this run learns from.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    unlabeled: tuple[str, ...]
    hidden: frozenset[str]
    folders: dict[str, str]
    notes: tuple[str, ...]
    seen_validation: tuple[str, ...] = ()

    def record(self) -> dict:
        """The split as it is kept in checkpoints and in `split.json`."""
        split = {"train": list(self.train), "val": list(self.validation)}
        seen = {SEEN_VALIDATION: list(self.seen_validation)} if self.seen_validation else {}
        return {**split, "hash": split_hash(split)[:12], "unlabeled": list(self.unlabeled), **seen}

    def refuse_another_split(self, began_with: Mapping, file: str) -> None:
        """A run that is continued keeps its labeled and its validation cases; `began_with`: of `record`, `file` has it too.

        Raises:
            UserError: the split has changed since. What was learned would be validated on cases that were trained on, and nobody
                could see it in the results.
        """
        found = []
        for side, cases, name in (("train", self.train, "training"), ("val", self.validation, "validation")):
            for change, others in (
                ("new", set(cases) - set(began_with[side])),
                ("gone", set(began_with[side]) - set(cases)),
            ):
                found += [f"{len(others)} {name} case(s) are {change}: {some(sorted(others), 5)}"] if others else []
        if found:
            raise UserError(
                f"The split has changed since this run began ({'; '.join(found)}), so that it cannot be continued. Put the split "
                f"of {file} back into splits_final.json, or begin a new run (without --c)."
            )

    def of_run(self, began_with: Sequence[str]) -> TrainingCases:
        """Those of a run that is continued: of the unlabeled cases, what it began with and what is still there, with notes.

        The state of a run (moving averages, its pool, the share of unlabeled cases) belongs to these cases.
        """
        known = set(began_with)
        added = [case for case in self.unlabeled if case not in known]
        gone = sorted(known - set(self.unlabeled))
        notes = list(self.notes)
        if added:
            notes.append(
                f"Note: {len(added)} image(s) of the list, such as {added[0]}, were not there when this run began and are not in "
                "its pool. To use them, start a new run (without --c)."
            )
        if gone:
            notes.append(f"Note: {len(gone)} unlabeled image(s) that this run began with are gone: {some(gone, 5)}.")
        return replace(
            self,
            unlabeled=tuple(case for case in self.unlabeled if case in known),
            folders={case: folder for case, folder in self.folders.items() if case in known},
            notes=tuple(notes),
        )

    def __str__(self) -> str:
        hidden = self.hidden.intersection(self.unlabeled)
        return (
            f"labeled: {len(self.train)}, unlabeled: {len(self.unlabeled)} ({len(hidden)} of them with hidden labels), "
            f"validation: {len(self.validation)} cases; split {self.record()['hash']}"
        )


def check_fold(preprocessed_base: str, labeled_folder: str, fold: int | str) -> None:
    """Refuse a fold for which nnU-Net would make a split of its own that nobody asked for.

    Raises:
        UserError: the fold is not in `splits_final.json`, this names cases that are not preprocessed, or there is no such file and
            too few cases to make one.
    """
    if fold == "all":
        return
    file = Path(preprocessed_base, "splits_final.json")
    dataset = file.parent.name
    cases = infer_dataset_class(labeled_folder).get_identifiers(labeled_folder)
    if file.is_file():
        folds = len(load_splits(file, set(cases)))
        if fold >= folds:
            raise UserError(
                f"Fold {fold} is not in {file}, which has {folds} fold(s): 0 to {folds - 1} are allowed. nnU-Net would train "
                "on a random 80:20 split of all cases. Choose another fold, or write a split with "
                f"`nnunet_ssl split -d {dataset} --labeled N`."
            )
        return
    if len(cases) < SMALLEST_STOCK_SPLIT:
        write = f"Write a split with `nnunet_ssl split -d {dataset} --labeled 1.0`: as many folds as patients."
        raise UserError(
            f"{file} does not exist and nnU-Net's 5-fold split needs {SMALLEST_STOCK_SPLIT} labeled cases or more, found "
            f"{len(cases)}. {write if len(cases) > 1 else 'Train fold all, which validates on its training case.'}"
        )


def gather_cases(
    preprocessed_base: str,
    labeled_folder: str,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    configuration: str,
    fold: int | str,
    split: tuple[Sequence[str], Sequence[str]],
    allow_transductive: bool,
    needs_unlabeled: bool = True,
) -> TrainingCases:
    """The cases of a fold, checked.

    Args:
        preprocessed_base: `nnUNet_preprocessed/DatasetXXX_Name`.
        labeled_folder: its subfolder with the labeled cases of this configuration.
        split: training and validation cases of the fold.
        allow_transductive: accept unlabeled images that are also validation or test images, or of the same patients.
        needs_unlabeled: False: unlabeled cases are left out, whether there are any or not.

    Raises:
        UserError: no unlabeled cases; their folder is missing, stale or unfinished; a case is labeled and unlabeled at once;
            an unlabeled image is also a validation or test image, or all are of patients that have such images; fold "all"
            although labels are hidden.
    """
    dataset = plans_manager.dataset_name
    file = Path(preprocessed_base, "unlabeled.json")
    repair = (
        f"nnunet_ssl preprocess_unlabeled -d {int(dataset_number(dataset))} -c {configuration} "
        f"-p {plans_manager.plans_name}"
    )
    if not file.is_file() and needs_unlabeled:
        raise UserError(
            f"{file} does not exist, so there are no unlabeled images to train on. Put images into imagesUn of "
            f"nnUNet_raw/{dataset}, then run `{repair}`."
        )
    cases = UnlabeledList.load(file) if file.is_file() else UnlabeledList()
    if fold == "all" and any(cases.hidden_labels.values()):
        raise UserError(
            f"Fold 'all' trains on the labels of all cases, but {file} hides labels of fold(s) "
            f"{', '.join(cases.hidden_labels)}. Train one of these folds, or undo the label budget with "
            f"`nnunet_ssl split -d {dataset} --labeled 1.0 --overwrite`."
        )
    hidden = frozenset(cases.hidden_labels.get(str(fold), []))
    unlabeled = cases.unlabeled_cases(fold)
    train, validation = split
    if not needs_unlabeled:
        notes = [f"The {len(unlabeled)} unlabeled cases are not used: this trainer has labeled patches only."]
        notes = (notes if unlabeled else []) + _notes_on_validation(train, validation)
        return TrainingCases(tuple(train), tuple(validation), (), hidden, {}, tuple(notes))
    if not unlabeled:
        raise UserError(
            f"{file} lists no unlabeled case for fold {fold}. Put images into imagesUn of nnUNet_raw/{dataset} and run "
            f"`{repair}`, or hide labels with `nnunet_ssl split`."
        )
    in_images_un = [case for case in unlabeled if case not in hidden]
    if in_images_un:
        verify_unlabeled(preprocessed_base, plans_manager, configuration_manager, in_images_un)
    overlaps = find_overlaps(cases, unlabeled, train, validation)
    twice = [o.case for o in overlaps if o.place == "training" and o.by == "id"]
    if twice:
        raise UserError(
            f"Fold {fold}: {some(twice)} would be labeled training case(s) and unlabeled ones at once. "
            f"splits_final.json and unlabeled.json in {preprocessed_base} contradict each other; write both again with "
            f"`nnunet_ssl split -d {dataset} --labeled N --overwrite`."
        )
    leaks = [o for o in overlaps if o.place != "training"]
    if leaks and not allow_transductive:
        raise UserError(
            f"{len(leaks)} unlabeled case(s) are also validation or test cases:\n{listed(map(str, leaks))}\nTake them out of "
            f"imagesUn (`nnunet_ssl check -d {dataset}` lists all) and run `{repair}`, or set `allow_transductive = True` in a "
            "subclass if that is what you study."
        )
    notes = [f"Note: unlabeled {o}." for o in overlaps if o.place == "training"]
    held_out = {*validation, *cases.test} - set(train)
    of_held_out = [] if allow_transductive else of_same_patients(cases, unlabeled, held_out)
    if of_held_out:
        unlabeled = sorted(set(unlabeled) - set(of_held_out))
        notes.append(
            f"Note: {len(of_held_out)} unlabeled image(s) are of patients with validation or test cases (`groups` of {file}) and "
            f"are left out: {some(of_held_out, 5)}."
        )
    if not unlabeled:
        raise UserError(
            f"Fold {fold}: all unlabeled images are of patients with validation or test cases ('groups' of {file}). Put images of "
            f"other patients into imagesUn of nnUNet_raw/{dataset} and run `{repair}`, or set `allow_transductive = True` in a "
            "subclass if that is what you study."
        )
    notes += _notes_on_validation(train, validation)
    folder = unlabeled_folder(preprocessed_base, configuration_manager)
    folders = {case: labeled_folder if case in hidden else folder for case in unlabeled}
    return TrainingCases(tuple(train), tuple(validation), tuple(unlabeled), hidden, folders, tuple(notes))


def _notes_on_validation(train: Sequence[str], validation: Sequence[str]) -> list[str]:
    if not set(validation) <= set(train):
        return []
    return [
        "All validation cases are training cases (a protocol without a validation set): the pseudo Dice and the final "
        "validation say nothing about unseen cases. Compare on the test cases: `nnunet_ssl compare --test`."
    ]
