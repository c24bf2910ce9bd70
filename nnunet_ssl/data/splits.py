"""`splits_final.json`: reading, comparing, writing and making splits in which no patient is on both sides.

nnU-Net's format is kept: a list with one `{"train": [case, ...], "val": [case, ...]}` per fold.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.names import check_case_ids
from nnunet_ssl.data.ownership import add_to_record, in_record
from nnunet_ssl.data.texts import read_lines
from nnunet_ssl.errors import UserError, some

FILE_NAME = "splits_final.json"
# key of the split that a run records: validation cases that networks have learned which made its pseudo labels
SEEN_VALIDATION = "seen_val"
_REMEDY = "Correct the file, or write a new one with `nnunet_ssl split --overwrite`."


def split_hash(split: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of one fold, independent of the order of its cases. Logs show the first 12 of the 64 digits."""
    content = {side: sorted(split[side]) for side in ("train", "val")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_splits(file: str | Path, known: Collection[str] | None = None) -> list[dict[str, list[str]]]:
    """Read `splits_final.json`.

    Args:
        known: ids of the labeled cases; None: any id is taken.

    Raises:
        UserError: names the file and the fold that is malformed, or that names a case which is not in `known`.
    """
    file = Path(file)
    splits = read_json(file, list, remedy=_REMEDY, missing="`nnunet_ssl split` writes one.")
    _check(splits, file)
    if known is not None and (unknown := unknown_cases(splits, known)):
        raise UserError(f"{file}, {unknown}. {_REMEDY}")
    return splits


def unknown_cases(splits: Sequence[Mapping[str, Sequence[str]]], known: Collection[str]) -> str | None:
    """The first fold that names cases which are not in `known`, and what may be meant; None where all are."""
    for fold, split in enumerate(splits):
        for side, cases in split.items():
            if unknown := [case for case in cases if case not in known]:
                hint = _meant(unknown[0], known)
                return (
                    f"fold {fold}: '{side}' names {len(unknown)} case(s) that are not labeled cases of the data set: "
                    f"{some(unknown, 5)}{hint}; allowed are its {len(known)} case ids, such as {some(sorted(known)[:3])}"
                )
    return None


def _meant(entry: str, known: Collection[str]) -> str:
    """What a message adds about the name of a file, with or without its folder, in the place of an id."""
    meant = re.sub(r"(_\d{4})?(\.\w+)*$", "", entry.replace("\\", "/").split("/")[-1])
    return f"; {meant} without file ending and channel is one" if meant in known else ""


def write_splits(file: str | Path, splits: Sequence[Mapping[str, Sequence[str]]], overwrite: bool) -> bool:
    """Write `splits_final.json` atomically. True where something was written, False where the same split was there.

    An existing different split is replaced only with `overwrite`, and then kept as `splits_final.json.<n>.bak`.

    Raises:
        UserError: a different split exists and `overwrite` is false, or `splits` is malformed.
    """
    file = Path(file)
    splits = [{side: list(split[side]) for side in ("train", "val")} for split in splits]
    _check(splits, file)
    if not overwrite:
        refuse_other_split(file, splits)
    if file.is_file():
        if _hashes_of(file) == [split_hash(split) for split in splits]:
            return False
        ours, backup = in_record(file.parent)(file.name, file), _backup_name(file)
        shutil.copy2(file, backup)
        if ours:
            add_to_record(backup)
    write_json_atomically(splits, file)
    add_to_record(file)
    return True


def refuse_other_split(file: str | Path, splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Raise UserError, which names --overwrite, if `file` exists and holds another split than `splits`."""
    file = Path(file)
    if not file.is_file():
        return
    present, wanted = _hashes_of(file), [split_hash(split) for split in splits]
    if present != wanted:
        raise UserError(
            f"{file} exists and holds another split: found {_some_hashes(present)}, to be written {_some_hashes(wanted)}. "
            "Results trained on different splits must not be compared. Add --overwrite to replace it (the old file is kept as "
            "a .bak copy)."
        )


def copy_splits(raw: Path, preprocessed: Path, overwrite: bool, known: Collection[str]) -> Path | None:
    """Copy `splits_final.json` of a raw data set to its preprocessed folder, before nnU-Net plans or trains.

    As in nnU-Net, the file in the preprocessed folder may hold folds beyond those of the raw file.

    Args:
        known: ids of the labeled cases.

    Returns:
        The file in the preprocessed folder, or None where the raw data set has no `splits_final.json`.

    Raises:
        UserError: another split is there already and `overwrite` is false, or a fold names a case that is not in `known`.
    """
    target, splits = check_copy(raw, preprocessed, overwrite, known)
    if splits:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_splits(target, splits, overwrite)
    return target if (raw / FILE_NAME).is_file() else None


def check_copy(
    raw: Path, preprocessed: Path, overwrite: bool, known: Collection[str]
) -> tuple[Path, list[dict[str, list[str]]]]:
    """Where `copy_splits` would write, and what; nothing where it is there. Raises what that does."""
    source, target = raw / FILE_NAME, preprocessed / FILE_NAME
    if not source.is_file():
        return target, []
    splits = load_splits(source, known)
    if target.is_file() and not overwrite:
        present = [split_hash(split) for split in load_splits(target)]
        if present[: len(splits)] == [split_hash(split) for split in splits]:
            return target, []
        refuse_other_split(target, splits)
    return target, splits


def _repeated(cases: Iterable[str]) -> list[str]:
    return sorted(case for case, number in Counter(cases).items() if number > 1)


def read_case_list(file: str | Path, known: Iterable[str] | None = None) -> list[str]:
    """Case ids of a text file, one per line, in order; CRLF, blank lines, a byte order mark and trailing commas are
    tolerated. UserError names the file when it is missing, empty, names a case twice, or one that is not in `known`.
    """
    lines = read_lines(file, "A list is a text file with one case id per line.")
    cases = [name for name in (line.strip().rstrip(",").strip() for line in lines) if name]
    if not cases:
        raise UserError(f"list {file} names no case. It is a text file with one case id per line.")
    twice = _repeated(cases)
    if twice:
        raise UserError(f"list {file} names {some(twice, 5)} more than once. Delete the repeated lines.")
    if known is not None:
        known = set(known)
        unknown = [case for case in cases if case not in known]
        if unknown:
            raise UserError(
                f"list {file} names {len(unknown)} unknown case(s): {some(unknown, 5)}{_meant(unknown[0], known)}. Allowed are "
                f"the {len(known)} case ids of the data set, such as {', '.join(sorted(known)[:3])}. Correct the list."
            )
    return cases


def cases_by_patient(cases: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Patient -> its cases, both sorted. A case without an entry in `groups` is a patient of its own."""
    patients: dict[str, list[str]] = {}
    for case in sorted(cases):
        patients.setdefault(groups.get(case, case), []).append(case)
    return dict(sorted(patients.items()))


def patients_on_both_sides(one: Iterable[str], other: Iterable[str], groups: Mapping[str, str]) -> list[str]:
    """Patients, sorted, that have cases among `one` and among `other`."""
    return sorted({groups.get(case, case) for case in one} & {groups.get(case, case) for case in other})


def sample_patients(cases: Iterable[str], groups: Mapping[str, str], number: int, seed: int) -> list[str]:
    """The sorted cases of `number` patients drawn with `seed`; samples of one seed are nested (7 contains 3).

    Raises:
        UserError: there are fewer than `number` patients, or `number` is below 1.
    """
    patients = cases_by_patient(cases, groups)
    if not 1 <= number <= len(patients):
        raise UserError(f"{number} patients were asked for; allowed are 1 to {len(patients)}, the patients available.")
    order = np.random.default_rng(seed).permutation(len(patients))
    names = list(patients)
    return sorted(case for index in order[:number] for case in patients[names[index]])


def grouped_folds(
    cases: Iterable[str], groups: Mapping[str, str], number: int, seed: int
) -> list[dict[str, list[str]]]:
    """Cross-validation with `number` folds over patients: every case is in the validation part of exactly one fold.

    Raises:
        UserError: there are fewer patients than folds, or fewer than 2 folds are asked for.
    """
    patients = cases_by_patient(cases, groups)
    if not 2 <= number <= len(patients):
        raise UserError(
            f"{number} folds were asked for; allowed are 2 to {len(patients)}, the patients available. "
            "Ask for fewer folds or name a validation list."
        )
    names = list(patients)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    folds = []
    for fold in range(number):
        held_out = set(order[fold::number])
        sides = {"train": [n for n in names if n not in held_out], "val": [n for n in names if n in held_out]}
        folds.append({side: sorted(case for n in members for case in patients[n]) for side, members in sides.items()})
    return folds


def _check(splits: object, file: Path) -> None:
    if not splits:
        raise UserError(f'{file} must be a list with one {{"train": [...], "val": [...]}} per fold. {_REMEDY}')
    for fold, split in enumerate(splits):
        if not isinstance(split, dict) or set(split) != {"train", "val"}:
            found = ", ".join(map(str, split)) if isinstance(split, dict) else type(split).__name__
            raise UserError(f"{file}, fold {fold}: found {found}; allowed are the keys train and val. {_REMEDY}")
        for side, cases in split.items():
            if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
                raise UserError(f"{file}, fold {fold}: '{side}' must be a list of case ids. {_REMEDY}")
            twice = _repeated(cases)
            if twice:
                raise UserError(f"{file}, fold {fold}: '{side}' names {some(twice, 5)} more than once. {_REMEDY}")
        check_case_ids([*split["train"], *split["val"]], f"{file}, fold {fold}")
        if not split["train"]:
            raise UserError(f"{file}, fold {fold}: 'train' is empty; at least one labeled case is needed. {_REMEDY}")


def _hashes_of(file: Path) -> list[str]:
    """Hash per fold of a file; a file that is no valid list of splits has none, and so differs from every split."""
    try:
        return [split_hash(split) for split in load_splits(file)]
    except UserError:
        return []


def _some_hashes(hashes: Iterable[str]) -> str:
    return some(text[:12] for text in hashes) or "nothing readable"


def _backup_name(file: Path) -> Path:
    number = 1
    while (backup := file.with_name(f"{file.name}.{number}.bak")).exists():
        number += 1
    return backup
