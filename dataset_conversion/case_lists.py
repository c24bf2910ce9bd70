"""The lists of a protocol and the label budget: which patients are trained on, validated, tested, and labeled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from nnunet_ssl.data.splits import read_case_list, sample_patients
from nnunet_ssl.data.texts import share_of_all, whole_number
from nnunet_ssl.errors import UserError, some

# an entry of a list that is a path to one of these names its case by the folder
CONTAINER_NAMES = ("mri_norm2", "lgemri")


@dataclass(frozen=True)
class SplitLists:
    """Entries of the list files of a protocol, in order. None: there is no such list."""

    train: list[str]
    validation: list[str] | None = None
    test: list[str] | None = None
    origin: str = ""  # where they come from, for the log


def read_list(path: str | Path) -> list[str]:
    r"""Entries of a list file, in order.

    CRLF, a byte order mark, blank lines, a missing final newline, trailing commas, path parts and the endings `.h5`, `.nii`,
    `.nii.gz`, `.nrrd` do not matter; an entry like `CASE/mri_norm2.h5` stands for `CASE`.

    Raises:
        UserError: the file is missing, not text, empty, or names an entry twice.
    """
    lines = read_case_list(path)
    entries = []
    for line in lines:
        parts = [part for part in line.replace("\\", "/").split("/") if part] or [line]
        name = re.sub(r"\.(h5|nii|nii\.gz|nrrd)$", "", parts[-1])
        entries.append(parts[-2] if name in CONTAINER_NAMES and len(parts) > 1 else name)
    # case.h5 and case.nii.gz are different lines and the same case
    repeated = [entry for entry, count in Counter(entries).items() if count > 1]
    if repeated:
        raise UserError(f"list {path} names {some(repeated)} more than once. Remove the repeated lines.")
    return entries


def find_list(folder: Path, part: str, exact: bool = False) -> Path | None:
    """The list of `part` ("train", "val" or "test") in a folder, by the names in use: `train.list`, `train.txt`,
    `train_slices.list`; else, unless `exact`, the one file whose name starts with the part. UserError if several do."""
    for name in (f"{part}.list", f"{part}.txt", f"{part}_slices.list"):
        if (folder / name).is_file():
            return folder / name
    if exact:
        return None
    candidates = sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(part) and path.suffix in (".list", ".txt") and path.is_file()
    )
    if len(candidates) > 1:
        raise UserError(
            f"{folder} holds several lists for {part}: {some([path.name for path in candidates])}. "
            f"Name the files after --split, for example --split {candidates[0]}"
        )
    return candidates[0] if candidates else None


def read_split(paths: Sequence[str | Path]) -> SplitLists:
    """Lists given with --split: folders that hold train, val and test lists (see `find_list`), or such files.

    A file belongs to the part whose name (train, val, test) its own name contains.

    Raises:
        UserError: a path is missing, a file name tells no part or two, two files claim the same part, or there is no
            train list.
    """
    parts: dict[str, Path] = {}

    def add(part: str, path: Path) -> None:
        if part in parts:
            raise UserError(f"--split has two lists for {part}: {parts[part]} and {path}. Give one of them.")
        parts[part] = path

    for path in map(Path, paths):
        if path.is_dir():
            for part in ("train", "val", "test"):
                if (found := find_list(path, part)) is not None:
                    add(part, found)
        elif path.is_file():
            named = [part for part in ("train", "val", "test") if part in path.name.lower()]
            if len(named) != 1:
                raise UserError(
                    f"--split {path}: the name of a list must contain one of train, val and test; found "
                    f"{' and '.join(named) or 'none'}. Rename the file."
                )
            add(named[0], path)
        else:
            raise UserError(f"--split {path}: no such file or folder. Give list files or the folder that holds them.")
    if "train" not in parts:
        raise UserError(
            f"--split {some(map(str, paths))}: no train list there (train.list or train.txt). Found: "
            f"{some(map(str, parts.values())) or 'no list'}. Add a file with the ids to train on, one per line."
        )
    entries = {part: read_list(path) for part, path in parts.items()}
    return SplitLists(entries["train"], entries.get("val"), entries.get("test"), ", ".join(map(str, parts.values())))


def shipped_list(name: str) -> list[str]:
    """A standard list of the field that comes with this package, e.g. `la_train80.list`."""
    with resources.as_file(resources.files(__package__).joinpath("lists", name)) as path:
        return read_list(path)


def check_known(entries: Iterable[str], known: Iterable[str], what: str) -> None:
    """UserError if `entries` holds what is not in `known`; `what` names the list, e.g. its path."""
    known = dict.fromkeys(sorted(known))
    unknown = [entry for entry in entries if entry not in known]
    if unknown:
        raise UserError(
            f"{what} names {len(unknown)} unknown case(s): {some(unknown, 5)}. Found in the input are {len(known)}, such as "
            f"{some(known, 3)}. Complete the download, correct -i, or remove these lines from the list."
        )


_LABELED = "Allowed: a number (8), a fraction of the training patients (0.1 or 10%), or a file with one id per line."


def _asked_for(labeled: str, available: int) -> int | None:
    """How many patients a number or a fraction means, also where a file has this name; None for a file."""
    number, fraction = whole_number(labeled), share_of_all(labeled)
    if number is not None:
        return number
    if fraction is None:
        if not Path(labeled).is_file():
            raise UserError(f"--labeled {labeled}: neither a number nor a file that exists. {_LABELED}")
        return None
    if not 0 < fraction <= 1:
        raise UserError(f"--labeled {labeled}: a fraction lies between 0 and 1. {_LABELED}")
    return max(1, round(fraction * available))


def choose_labeled(
    patients: Sequence[str],
    labeled: str | None,
    seed: int | None = None,
    to_patient: Callable[[str], str] = str,
) -> list[str]:
    """The patients whose labels are used.

    Args:
        patients: those of the train list that have a label, in the order of the list.
        labeled: None (all), a number `8`, a fraction `0.1` or `10%` of `patients` (rounded, at least 1), or a list file; a file
            whose name is a number is named with a folder, `./8`.
        seed: None takes the first N of the list, as the published protocols do. A number takes N at random; the choice
            depends only on the set of patients and the seed, and a larger N contains a smaller one.
        to_patient: patient of an entry of the list file.

    Raises:
        UserError: neither number, fraction nor file; more than there are; none; a list with an unknown patient; a seed
            that has nothing to choose, with a list or with all.
    """
    if labeled is None:
        if seed is not None:
            raise UserError(
                f"--seed {seed} chooses among the labeled patients and does nothing without --labeled. Leave it out."
            )
        return list(patients)
    number = _asked_for(labeled, len(patients))
    if number is None:
        if seed is not None:
            raise UserError(
                f"--labeled {labeled} is a list, so --seed {seed} has nothing to choose. Leave one of them out."
            )
        entries = list(dict.fromkeys(map(to_patient, read_list(labeled))))
        check_known(entries, patients, f"--labeled {labeled}")
        return entries
    if number > len(patients) or number < 1:
        raise UserError(
            f"--labeled {labeled}: {number} labeled patients were asked for, the train list has {len(patients)} with a label. "
            f"Ask for 1 to {len(patients)}."
        )
    if seed is None:
        return list(patients[:number])
    return sample_patients(patients, {}, number, seed)
