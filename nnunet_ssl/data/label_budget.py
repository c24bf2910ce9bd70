"""`nnunet_ssl split`: label budgets on one preprocessed data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ssl.data.list_update import save_list, update_list
from nnunet_ssl.data.raw_dataset import RawDataset, dataset_name, preprocessed_folder, raw_folder
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import (
    cases_by_patient,
    grouped_folds,
    load_splits,
    read_case_list,
    refuse_other_split,
    sample_patients,
    split_hash,
    write_splits,
)
from nnunet_ssl.data.texts import share_of_all, whole_number
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList, known_groups
from nnunet_ssl.errors import UserError

DEFAULT_FOLDS = 5  # as nnU-Net's own splits


def write_budget(
    name_or_id: str | int,
    labeled: str,
    seed: int | None,
    *,
    val: str | None = None,
    val_fraction: float | None = None,
    folds: int | None = None,
    num_processes: int = 8,
    overwrite: bool = False,
) -> None:
    """Write the splits of a budget to splits_final.json, the hidden labels to unlabeled.json, and print the numbers.

    Args:
        labeled, seed, val, val_fraction, folds: see `make_budget`.
        num_processes: to hash images with.
        overwrite: replace a different splits_final.json.

    Raises:
        UserError: what `make_budget` refuses, another split without `overwrite`, a file that cannot be written.
    """
    name = dataset_name(name_or_id)
    content, channel_names = _load_list(name, num_processes)
    folders = [folder for folder in (preprocessed_folder(name), raw_folder(name)) if folder.is_dir()]
    present = _present_splits(folders, content, overwrite)

    splits, hidden, notes = make_budget(
        content, present, labeled, seed, val=val, val_fraction=val_fraction, folds=folds
    )
    if not overwrite:
        for folder in folders:  # before the first of them is written
            refuse_other_split(folder / SPLITS_FILE, splits)
    for folder in _that_can_be_written(folders, splits):
        written = write_splits(folder / SPLITS_FILE, splits, overwrite)
        print(f"{folder / SPLITS_FILE}: {'written' if written else 'is the same already'}")
    content.hidden_labels = {str(fold): cases for fold, cases in enumerate(hidden)}
    save_list(content, name)
    _report(name, content, splits, hidden, notes, channel_names)


def _hashes(splits: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    return [split_hash(split) for split in splits]


def _that_can_be_written(folders: Sequence[Path], splits: Sequence[Mapping[str, Sequence[str]]]) -> list[Path]:
    """Without raw data that are read-only and hold no other splits, of which it is said. UserError where nothing may be written."""
    writable = [folder for folder in folders if os.access(folder, os.W_OK)]
    for folder in folders:
        if folder in writable:
            continue
        if not writable or (
            (folder / SPLITS_FILE).is_file() and _hashes(load_splits(folder / SPLITS_FILE)) != _hashes(splits)
        ):
            raise UserError(
                f"{folder / SPLITS_FILE} cannot be written. nnU-Net's planner refuses to run while the splits of the raw and the "
                "preprocessed data set differ: make the file writable and run this again. Nothing was written."
            )
        print(f"{folder} cannot be written; its splits are kept in {writable[0] / SPLITS_FILE} alone.")
    return writable


def _report(
    name: str,
    content: UnlabeledList,
    splits: Sequence[Mapping[str, Sequence[str]]],
    hidden: Sequence[Sequence[str]],
    notes: Sequence[str],
    channel_names: Sequence[str],
) -> None:
    for fold, (split, cases) in enumerate(zip(splits, hidden)):
        patients = {key: len(cases_by_patient(c, content.groups)) for key, c in (*split.items(), ("hidden", cases))}
        print(
            f"fold {fold}: {len(split['train'])} labeled cases of {patients['train']} patients, {len(cases)} cases of "
            f"{patients['hidden']} patients with hidden labels, {len(content.unlabeled)} cases in imagesUn, "
            f"{len(split['val'])} validation cases of {patients['val']} patients; split {split_hash(split)[:12]}"
        )
    for note in notes:
        print(note)
    if any(hidden):
        ct = any(str(channel).lower() == "ct" for channel in channel_names)
        print(
            f"Note: fingerprint and plans of {name} were made with the labels of all {len(content.labeled)} cases of "
            "imagesTr, including the hidden ones. They decide spacing, patch size and, for CT, the intensities used for "
            "normalization"
            + (" (this data set has a CT channel, so they reach the training). " if ct else ". ")
            + "For plans that have seen the labeled cases only, convert with `nnunet_ssl convert ... --labeled`, which "
            "puts the others into imagesUn."
        )


def _load_list(name: str, num_processes: int) -> tuple[UnlabeledList, list[str]]:
    """The case lists of the data set and its channel names, from the raw images where they are there."""
    if raw_folder(name).is_dir():
        raw = RawDataset.open(name)
        return update_list(raw, num_processes), raw.channel_names
    file = preprocessed_folder(name) / LIST_FILE
    if not file.is_file():
        raise UserError(
            f"Neither {raw_folder(name)} nor {file} exists; the images or the list made from them are needed. "
            f"Set nnUNet_raw to the folder of the raw data set {name}."
        )
    print(f"{raw_folder(name)} does not exist: the cases are those of {file}, and the splits go to its folder alone.")
    content = UnlabeledList.load(file)
    content.groups = known_groups(file.parent)
    return content, []


def _present_splits(folders: Sequence[Path], content: UnlabeledList, overwrite: bool) -> list[dict] | None:
    """The splits that exist; None where there are none, or none that can be used and they may be replaced."""
    for file in (folder / SPLITS_FILE for folder in folders):
        if file.is_file():
            try:
                return load_splits(file, content.labeled)
            except UserError:
                if not overwrite:
                    raise
                return None
    return None


def make_budget(
    content: UnlabeledList,
    present: Sequence[dict] | None,
    labeled: str,
    seed: int | None,
    *,
    val: str | None = None,
    val_fraction: float | None = None,
    folds: int | None = None,
) -> tuple[list[dict[str, list[str]]], list[list[str]], list[str]]:
    """Splits for a budget of labels.

    Args:
        content: the case lists; only `labeled` and `groups` are read.
        present: the splits that exist, or None. Their validation cases are kept unless `val` or `val_fraction` is given.
            A fold that validates on its own training list (protocols without validation set) stays such a fold.
        labeled: number of patients, a share of the patients that are not in the validation part (`0.1`, `10%`), or a list file.
        seed: None is 0; fold k draws with `seed + k`; for one seed, larger budgets contain the smaller ones.
        val: file with the validation cases of all folds.
        val_fraction: fraction of the patients to draw for validation, per fold.
        folds: number of folds; see the help of `-f`.

    Returns:
        The splits, per fold the cases whose labels are to be hidden, and notes to print.

    Raises:
        UserError: too few patients for the request, an unknown case, an argument out of its range.
    """
    cases, groups = sorted(content.labeled), content.groups
    listed = whole_number(labeled) is None and share_of_all(labeled) is None and Path(labeled).is_file()
    if seed is not None and listed and (val is not None or (present is not None and val_fraction is None)):
        lists = f"--val {val}" if val is not None else "the validation cases of splits_final.json"
        raise UserError(
            f"--labeled {labeled} and {lists} name all cases: --seed {seed} has nothing to choose. Leave it out."
        )
    seed = seed or 0
    if folds is not None and not 1 <= folds <= 1000:
        raise UserError(f"-f is {folds}; allowed are 1 to 1000.")
    patients = cases_by_patient(cases, groups)
    if val is not None:
        parts = [sorted(read_case_list(val, cases))] * (folds or 1)
    elif val_fraction is not None:
        if not 0 < val_fraction < 1:
            raise UserError(f"--val_fraction is {val_fraction}; allowed are numbers between 0 and 1.")
        number = round(val_fraction * len(patients))
        if not 1 <= number < len(patients):
            raise UserError(
                f"--val_fraction {val_fraction} gives {number} of {len(patients)} patients for validation; allowed are "
                f"1 to {len(patients) - 1}. Choose another fraction."
            )
        # another stream than the draw of labels, or the validation patients would depend on the budget's seed alone
        parts = [sample_patients(cases, groups, number, seed=10_000 + seed + k) for k in range(folds or 1)]
    elif present is not None:
        if folds is not None and folds > len(present):
            raise UserError(
                f"-f {folds} folds were asked for; the existing splits_final.json has {len(present)}, whose validation "
                "cases are kept. Ask for at most that many, or choose new validation cases with --val or --val_fraction."
            )
        parts = [sorted(split["val"]) for split in present[:folds]]
    else:
        number = folds or min(DEFAULT_FOLDS, max(2, len(patients)))
        parts = [fold["val"] for fold in grouped_folds(cases, groups, number, seed)]
    keep_present = val is None and val_fraction is None and present is not None
    same_as_train = [keep_present and set(present[k]["train"]) == set(parts[k]) for k in range(len(parts))]

    splits, hidden, notes = [], [], []
    for fold, part in enumerate(parts):
        unknown = sorted(set(part) - set(cases))
        if unknown:
            raise UserError(
                f"splits_final.json, fold {fold}: validation case {unknown[0]} does not lie in imagesTr (it has "
                f"{len(cases)} cases). Choose new validation cases with --val or --val_fraction."
            )
        held_out = set() if same_as_train[fold] else {groups.get(case, case) for case in part}
        pool = [case for case in cases if groups.get(case, case) not in held_out]
        train = _choose(labeled, pool, part, held_out, content, seed + fold)
        splits.append({"train": train, "val": list(train) if same_as_train[fold] else part})
        hidden.append(sorted(set(pool) - set(train)))
        if same_as_train[fold]:
            notes.append(f"fold {fold} validates on its own training cases, as before: compare on the test cases.")
        unused = sorted(set(cases) - set(pool) - set(part))
        if unused:
            notes.append(
                f"fold {fold}: {len(unused)} cases, such as {unused[0]}, are not used: their patients are in validation."
            )
    return splits, hidden, notes


_LABELED = (
    "Allowed: a whole number of patients (7), a share of those outside validation (0.1 or 10%), or a text file with one case id "
    "per line."
)


def _choose(
    labeled: str, pool: list[str], val: list[str], held_out: set[str], content: UnlabeledList, seed: int
) -> list[str]:
    """The labeled training cases of one fold, sorted, chosen from `pool`."""
    available = len(cases_by_patient(pool, content.groups))
    number = whole_number(labeled)
    if number is None:
        share = share_of_all(labeled)
        if share is None:
            return _listed(labeled, pool, val, held_out, content)
        if not 0 < share <= 1:
            raise UserError(f"--labeled {labeled}: a share lies above 0 and not above 1 (100%). {_LABELED}")
        number = max(1, round(share * available))
    if not 1 <= number <= available:
        raise UserError(
            f"--labeled {labeled}: found {available} patients ({len(pool)} cases) outside validation; allowed are 1 to "
            f"{available}. Ask for fewer, or for a smaller validation part with --val or --val_fraction."
        )
    return sample_patients(pool, content.groups, number, seed)


def _listed(file: str, pool: list[str], val: list[str], held_out: set[str], content: UnlabeledList) -> list[str]:
    if not Path(file).is_file():
        raise UserError(f"--labeled {file}: there is no such file, and it is no number. {_LABELED}")
    chosen = read_case_list(file, content.labeled)
    for case in chosen:
        if case not in pool:
            why = "is a validation case" if case in val else "belongs to a patient of the validation part"
            raise UserError(
                f"list {file}: {case} {why} ({len(held_out)} patients validate). Remove it from the list, or choose "
                "validation cases with --val."
            )
    return sorted(chosen)
