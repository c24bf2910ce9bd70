"""What every converter needs: lists, label budgets, checked reading, and one way to write a data set.

A converter finds the cases of a release, decides which of them are labeled, unlabeled, for validation and for testing, and
calls `write_dataset`. Everything that must not differ between data sets happens here.
"""

from __future__ import annotations

import argparse
import errno
import functools
import gzip
import json
import os
import re
import shutil
import socket
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from multiprocessing import get_context, parent_process
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_ssl.data.splits import sample_patients, split_hash, write_splits
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash
from nnunet_ssl.errors import UserError

FILE_ENDING = ".nii.gz"
# files and folders that unpacking, browsing and mirrors leave behind
IGNORED_NAMES = ("desktop.ini", ".DS_Store", "__MACOSX", "MANDATORY_CITATION.md")
# an entry of a list that is a path to one of these names its case by the folder
CONTAINER_NAMES = ("mri_norm2", "lgemri")
# origin in mm and direction cosines as NIfTI (float32) and NRRD (text) preserve them; spacing is compared as nnU-Net does
ORIGIN_TOLERANCE = 1e-3
DIRECTION_TOLERANCE = 1e-4
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# how many faults a message lists before it says how many more there are
LISTED_FAULTS = 10


@dataclass(frozen=True)
class Case:
    """One volume of the release.

    `label` is None for a case without an annotation. Such a case is unlabeled, which is not an error.
    """

    case_id: str  # identifier in nnU-Net, without the `_0000` of the channel
    patient: str  # what a split must not cut apart
    images: tuple[Path, ...]  # one file per channel; whatever else the reader needs for h5 containers and slices
    label: Path | None
    source: str  # the image's (or the case folder's) path relative to the -i folder, kept in unlabeled.json


# Reads a case: one image per channel, and the label. Must return None as label, and not touch its file, where `case.label` is
# None: this is how labels of unlabeled cases stay unread. Runs in worker processes, hence a top-level function
# (functools.partial of one is fine). Raises UserError for a file that cannot be used.
Reader = Callable[[Case], tuple[list[sitk.Image], "sitk.Image | None"]]


@dataclass(frozen=True)
class Assignment:
    """Case ids by their place in the data set. No id twice; no patient on two of the sides training (labeled and
    unlabeled), validation, test."""

    labeled: tuple[str, ...]  # imagesTr, labelsTr; trained on
    unlabeled: tuple[str, ...] = ()  # imagesUn; a label, where there is one, is not read and not written
    validation: tuple[str, ...] = ()  # imagesTr, labelsTr; only in `val` of the split
    test: tuple[str, ...] = ()  # imagesTs, and labelsTs where there is a label


@dataclass(frozen=True)
class DatasetDescription:
    """What dataset.json says, and which codes a label file may hold."""

    dataset_id: int
    name: str  # without `DatasetXXX_`
    channel_names: Mapping[str, str]  # {"0": "LGE-MRI"}
    labels: Mapping[str, int | tuple[int, ...]]  # as in nnU-Net's dataset.json
    # code in the file -> code in nnU-Net. Several mappings: the first that knows every code of a label is used for it, so
    # that a mask of 0/255 and one of 0/1 are both read, but not one that has 0, 1 and 255.
    label_codes: tuple[Mapping[int, int], ...]
    regions_class_order: tuple[int, ...] | None = None
    description: str = ""
    reference: str = ""
    license: str = "see reference"
    options: Mapping[str, object] = field(default_factory=dict)  # what else decides about the voxels, e.g. the spacing

    @property
    def folder_name(self) -> str:
        """`DatasetXXX_Name`."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"


@dataclass(frozen=True)
class SplitLists:
    """Entries of the list files of a protocol, in order. None: there is no such list."""

    train: list[str]
    validation: list[str] | None = None
    test: list[str] | None = None
    origin: str = ""  # where they come from, for the log


# --- folders and lists ------------------------------------------------------------------------------------------------


def is_ignored(path: Path) -> bool:
    """True for what is not data: desktop.ini, .DS_Store, __MACOSX, `._*`, MANDATORY_CITATION.md."""
    return path.name in IGNORED_NAMES or path.name.startswith("._")


def list_folder(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without the ignored ones. UserError if it is missing, not a folder, or empty."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(f"{folder}: found {found}, expected a folder. Give the folder of the unpacked release with -i.")
    entries = sorted(path for path in folder.iterdir() if not is_ignored(path))
    if not entries:
        raise UserError(f"{folder} is empty. Unpack the release there, or give its folder with -i.")
    return entries


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in sorted order, through symbolic links, without ignored files and folders."""
    list_folder(folder)
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_ignored(Path(name)))
        yield Path(root), list(folders), sorted(name for name in files if not is_ignored(Path(name)))


def read_list(path: str | Path) -> list[str]:
    r"""Entries of a list file, in order.

    CRLF, a byte order mark, blank lines, a missing final newline, trailing commas, path parts and the endings `.h5`, `.nii`,
    `.nii.gz`, `.nrrd` do not matter; an entry like `CASE/mri_norm2.h5` stands for `CASE`.

    Raises:
        UserError: the file is missing, not text, empty, or names an entry twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"list {path} cannot be read ({error}). A list is a text file with one entry per line."
        ) from error
    entries = []
    for line in lines:
        parts = [part for part in line.strip().rstrip(",").strip().replace("\\", "/").split("/") if part]
        if not parts:
            continue
        name = re.sub(r"\.(h5|nii|nii\.gz|nrrd)$", "", parts[-1])
        entries.append(parts[-2] if name in CONTAINER_NAMES and len(parts) > 1 else name)
    if not entries:
        raise UserError(f"list {path} has no entries. A list is a text file with one entry per line.")
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
    known = sorted(set(known))
    unknown = [entry for entry in entries if entry not in set(known)]
    if unknown:
        raise UserError(
            f"{what} names {len(unknown)} unknown case(s): {some(unknown, 5)}. Found in the input are {len(known)}, such as "
            f"{some(known, 3)}. Complete the download, correct -i, or remove these lines from the list."
        )


def choose_labeled(
    patients: Sequence[str],
    labeled: str | None,
    seed: int | None = None,
    to_patient: Callable[[str], str] = str,
) -> list[str]:
    """The patients whose labels are used.

    Args:
        patients: those of the train list that have a label, in the order of the list.
        labeled: None (all), a number `8`, a fraction `0.1` or `10%` of `patients` (rounded, at least 1), or a list file.
        seed: None takes the first N of the list, as the published protocols do. A number takes N at random; the choice
            depends only on the set of patients and the seed, and a larger N contains a smaller one.
        to_patient: patient of an entry of the list file.

    Raises:
        UserError: neither number, fraction nor file; more than there are; none; a list with an unknown patient; a seed
            together with a list.
    """
    if labeled is None:
        return list(patients)
    if Path(labeled).is_file():
        if seed is not None:
            raise UserError(
                f"--labeled {labeled} is a list, so --seed {seed} has nothing to choose. Leave one of them out."
            )
        entries = list(dict.fromkeys(map(to_patient, read_list(labeled))))
        check_known(entries, patients, f"--labeled {labeled}")
        return entries
    allowed = "Allowed: a number (8), a fraction of the training patients (0.1 or 10%), or a file with one id per line."
    try:
        if re.fullmatch(r"\d+", labeled):
            number = int(labeled)
        else:
            percent = labeled.endswith("%")
            fraction = float(labeled.rstrip("%")) / (100 if percent else 1)
            if not 0 < fraction <= 1:
                raise UserError(f"--labeled {labeled}: a fraction lies between 0 and 1. {allowed}")
            number = max(1, round(fraction * len(patients)))
    except ValueError:
        raise UserError(f"--labeled {labeled}: neither a number nor a file that exists. {allowed}") from None
    if number > len(patients) or number < 1:
        raise UserError(
            f"--labeled {labeled}: {number} labeled patients were asked for, the train list has {len(patients)} with a label. "
            f"Ask for 1 to {len(patients)}."
        )
    if seed is None:
        return list(patients[:number])
    return sample_patients(patients, {}, number, seed)


def some(names: Iterable[str], limit: int = LISTED_FAULTS) -> str:
    """The first `limit` names for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# --- reading ----------------------------------------------------------------------------------------------------------


def check_nifti(path: Path) -> None:
    """UserError if a NIfTI file is shorter than its header says or its compressed stream is damaged.

    SimpleITK fills the missing part of such a file with zeros, or keeps the damage, and reports neither; and it does not
    report a file that it could not write completely.
    """
    import nibabel

    try:
        image = nibabel.load(path)
        needed = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if path.name.endswith(".gz"):
            found = 0
            with gzip.open(path) as stream:
                while chunk := stream.read(1 << 22):
                    found += len(chunk)
        else:
            found = path.stat().st_size
    except (OSError, EOFError, zlib.error, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(path, str(error)) from error
    except nibabel.spatialimages.HeaderDataError as error:
        raise _damaged(path, str(error)) from error
    if found < needed:
        raise _damaged(path, f"truncated: {found} bytes found, {needed} announced by the header")


def read_image(path: Path) -> sitk.Image:
    """Read an image or a mask with SimpleITK. UserError for a missing, truncated or corrupt file."""
    if not path.is_file():
        raise UserError(f"{path} is missing. Complete the download, or remove the case from the input.")
    if path.name.endswith((".nii", ".nii.gz")):
        check_nifti(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _damaged(path, " ".join(str(error).split())[-300:]) from error


def read_h5(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an h5 file by key. UserError that lists the keys found if one is missing or cannot be read."""
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            for key in keys:
                if key not in file:
                    found = some(sorted(file)) or "no key"
                    raise UserError(
                        f"{path}: key '{key}' is missing; found {found}. Expected are the keys of the published re-release "
                        f"({', '.join(keys)}). Download the file again, or rename the key."
                    )
                if not isinstance(file[key], h5py.Dataset):
                    raise UserError(f"{path}: key '{key}' is a group, expected an array. Download the file again.")
                try:
                    arrays[key] = file[key][()]
                except (OSError, TypeError) as error:
                    raise UserError(
                        f"{path}: key '{key}' cannot be read ({error}). The file is damaged: download it again."
                    ) from error
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Complete the download, or remove the case from the input.") from None
    except OSError as error:
        raise _damaged(path, str(error)) from error
    return arrays


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be read, it is truncated or corrupt ({why}). Download or unpack it again.")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_dataset(
    dataset: DatasetDescription,
    cases: Sequence[Case],
    assignment: Assignment,
    reader: Reader,
    num_processes: int = 8,
    overwrite: bool = False,
) -> Path:
    """Write `nnUNet_raw/DatasetXXX_Name` with images, labels, dataset.json, unlabeled.json and splits_final.json.

    Cases that `assignment` does not name are left out. Every case is checked: channels and label share shape, spacing,
    origin and direction, voxels are finite, the label holds only codes of `label_codes`. All faulty cases are reported
    together. The data set is written to a hidden sibling and renamed when it is complete; an existing one is replaced
    only then, and only with `overwrite`. If the existing one is the result of the same request, nothing is written.

    The split has one fold: training on all labeled cases, validation on `assignment.validation`, or on the same labeled
    cases where the protocol has no validation list.

    Returns:
        The folder of the data set.

    Raises:
        UserError: a faulty case or assignment, a full disk, a worker that died, an id that belongs to another data set, an
            existing data set that differs.
    """
    target = _target_folder(dataset)
    by_id = _check_cases(cases)
    _check_assignment(assignment, by_id)
    _recover(target)
    staging = target.with_name(f".{target.name}.converting-{socket.gethostname()}-{os.getpid()}")
    records = _records(assignment, by_id)
    number = len(assignment.labeled) + len(assignment.validation) + len(assignment.unlabeled) + len(assignment.test)
    try:
        staging.mkdir(parents=True)
        _write_dataset_json(staging, dataset, len(assignment.labeled) + len(assignment.validation))
        split = {
            "train": sorted(assignment.labeled),
            "val": sorted(assignment.validation or assignment.labeled),
        }
        write_splits(staging / "splits_final.json", [split], overwrite=False)
        if target.exists():
            same = _same_request(staging, target, records)
            if same and not overwrite:
                print(
                    f"{target} already holds this conversion ({number} cases); nothing is written. "
                    "--overwrite converts again."
                )
                return target
            if not overwrite:
                raise UserError(
                    f"{target} exists and holds another conversion: cases, labels, options or split differ. Allowed: a free id "
                    "(-d), or --overwrite, which replaces the folder once the new one is complete."
                )
        hashes = _convert_all(dataset, by_id, assignment, reader, staging, num_processes)
        for case_id, record in [*records.unlabeled.items(), *records.labeled.items(), *records.test.items()]:
            record.sha256 = hashes[case_id]
        records.save(staging / "unlabeled.json")
        _put_in_place(staging, target)
    except OSError as error:
        raise UserError(_disk_message(error, target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(dataset, assignment, by_id, target, split)
    _report_identical(hashes, dataset.dataset_id)
    return target


def _target_folder(dataset: DatasetDescription) -> Path:
    from nnunetv2.paths import nnUNet_raw
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    if not 1 <= dataset.dataset_id <= 999:
        raise UserError(f"-d {dataset.dataset_id}: a data set id lies between 1 and 999.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", dataset.name):
        raise UserError(f"-name {dataset.name}: allowed are letters, digits, '_' and '-', as in Dataset101_LA.")
    if not nnUNet_raw.is_set():
        raise UserError(
            "the environment variable nnUNet_raw is not set. Allowed: the folder of nnU-Net's raw data sets. "
            "Set it: export nnUNet_raw=/path/to/nnUNet_raw"
        )
    # nnU-Net finds a data set by its number in the raw, the preprocessed and the results folder and stops at two names
    others = [str(name) for name in find_candidate_datasets(dataset.dataset_id) if name != dataset.folder_name]
    if others:
        raise UserError(
            f"-d {dataset.dataset_id}: the id belongs to {some(others)} (in nnUNet_raw, nnUNet_preprocessed or "
            f"nnUNet_results), so {dataset.folder_name} cannot be made. Give a free id with -d, or the same name with -name."
        )
    return Path(str(nnUNet_raw)).absolute() / dataset.folder_name


def _check_cases(cases: Sequence[Case]) -> dict[str, Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        if case.case_id in by_id:
            raise UserError(
                f"case {case.case_id} occurs twice in the input: {by_id[case.case_id].source} and {case.source}. "
                "Remove or move away one of them."
            )
        if re.search(r"_\d{4}$", case.case_id):
            raise UserError(
                f"case {case.case_id} ({case.source}): an id must not end in '_' and four digits, which is how nnU-Net marks "
                "channels. Rename the case."
            )
        by_id[case.case_id] = case
    return by_id


def _check_assignment(assignment: Assignment, by_id: Mapping[str, Case]) -> None:
    parts = {part: getattr(assignment, part) for part in ("labeled", "unlabeled", "validation", "test")}
    seen: dict[str, str] = {}
    for part, ids in parts.items():
        check_known(ids, by_id, f"the list of {part} cases")
        for case_id in ids:
            if case_id in seen:
                raise UserError(
                    f"case {case_id} is both {seen[case_id]} and {part}. A case belongs to one list: correct the files given "
                    "with --split."
                )
            seen[case_id] = part
    if not parts["labeled"]:
        raise UserError(
            "no labeled case: no case of the train list has a label. Allowed: at least one. Check -i and --split."
        )
    for part in ("labeled", "validation"):
        without = [case_id for case_id in parts[part] if by_id[case_id].label is None]
        if without:
            raise UserError(
                f"{len(without)} {part} case(s) have no label file: {some(without)}. Add the label, or remove the case from "
                "the list."
            )
    side_of: dict[str, str] = {}
    sides = {"labeled": "training", "unlabeled": "training", "validation": "validation", "test": "test"}
    for case_id, part in seen.items():
        patient, side = by_id[case_id].patient, sides[part]
        if side_of.setdefault(patient, side) != side:
            raise UserError(
                f"patient {patient} has cases for {side_of[patient]} and for {side} ({case_id}). A patient belongs to one "
                "side: correct the files given with --split."
            )


def _records(assignment: Assignment, by_id: Mapping[str, Case]) -> UnlabeledList:
    """The content of unlabeled.json, hashes still empty. `groups` names the cases whose patient has another id."""

    def part(ids: Iterable[str]) -> dict[str, CaseRecord]:
        return {case_id: CaseRecord(by_id[case_id].source, "") for case_id in ids}

    records = UnlabeledList(
        unlabeled=part(assignment.unlabeled),
        labeled=part((*assignment.labeled, *assignment.validation)),
        test=part(assignment.test),
    )
    for case_id in (*records.unlabeled, *records.labeled, *records.test):
        if by_id[case_id].patient != case_id:
            records.groups[case_id] = by_id[case_id].patient
    return records


def _write_dataset_json(folder: Path, dataset: DatasetDescription, num_training: int) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    generate_dataset_json(
        str(folder),
        channel_names=dict(dataset.channel_names),
        labels=dict(dataset.labels),
        num_training_cases=num_training,
        file_ending=FILE_ENDING,
        regions_class_order=dataset.regions_class_order,
        dataset_name=dataset.name,
        reference=dataset.reference or None,
        description=dataset.description or None,
        license=dataset.license,
        converted_by="nnunet_ssl convert",
        # how the voxels came about; nnU-Net ignores keys that it does not know
        nnunet_ssl={
            "label_codes": [{str(key): value for key, value in codes.items()} for codes in dataset.label_codes],
            **dataset.options,
        },
    )


def _same_request(staging: Path, target: Path, records: UnlabeledList) -> bool:
    """Whether `target` was made from the same cases with the same options; voxels are not compared."""
    try:
        present = UnlabeledList.load(target / "unlabeled.json")
        files = [
            [json.loads((folder / name).read_text(encoding="utf-8")) for name in ("dataset.json", "splits_final.json")]
            for folder in (staging, target)
        ]
    except (UserError, OSError, ValueError):
        # not one of our data sets, or a damaged one: in either case not the same
        return False

    def sources(part: Mapping[str, CaseRecord]) -> dict[str, str]:
        return {case_id: record.source for case_id, record in part.items()}

    return (
        files[0] == files[1]
        and present.groups == records.groups
        and all(
            sources(getattr(present, part)) == sources(getattr(records, part))
            for part in ("unlabeled", "labeled", "test")
        )
    )


def _recover(target: Path) -> None:
    """Put right what a killed conversion has left: its half data set goes, a data set it had moved aside comes back."""
    if not target.parent.is_dir():
        return
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists():
        if target.exists():
            shutil.rmtree(replaced)
        else:
            os.rename(replaced, target)
            print(f"An interrupted conversion had moved {target} aside; it is back in its place.")
    prefix = f".{target.name}.converting-"
    for leftover in target.parent.glob(f"{prefix}*"):
        host, _, pid = leftover.name.removeprefix(prefix).rpartition("-")
        if host == socket.gethostname() and pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(leftover)
            print(f"Removed {leftover}, left by an interrupted conversion.")


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename the complete data set; the one it replaces is removed only after that."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        os.rename(target, replaced)
    try:
        os.rename(staging, target)
    except OSError:
        if replaced.exists():
            os.rename(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _convert_all(
    dataset: DatasetDescription,
    by_id: Mapping[str, Case],
    assignment: Assignment,
    reader: Reader,
    staging: Path,
    num_processes: int,
) -> dict[str, str]:
    """Convert every assigned case; returns the content hash by case id. UserError names all faulty cases."""
    jobs: list[tuple[Case, str, str | None]] = []
    for ids, images, labels in (
        ((*assignment.labeled, *assignment.validation), "imagesTr", "labelsTr"),
        (assignment.unlabeled, "imagesUn", None),
        (assignment.test, "imagesTs", "labelsTs"),
    ):
        for case_id in ids:
            case = by_id[case_id]
            jobs.append((case if labels else replace(case, label=None), images, labels))
    for folder in {folder for job in jobs for folder in job[1:] if folder}:
        (staging / folder).mkdir()

    convert = functools.partial(_convert_case, reader=reader, dataset=dataset, staging=staging)
    hashes: dict[str, str] = {}
    faults: list[str] = []
    empty: list[str] = []
    with _results(convert, jobs, num_processes) as results:
        for case_id, content, label_is_empty, fault in tqdm(
            results, total=len(jobs), desc=f"Converting to {dataset.folder_name}", disable=None, file=sys.stdout
        ):
            hashes[case_id] = content
            if fault:
                faults.append(fault)
            elif label_is_empty:
                empty.append(case_id)
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in sorted(faults)[:LISTED_FAULTS])
        more = f"\n  ... and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise UserError(f"{len(faults)} of {len(jobs)} cases cannot be converted; nothing was written.\n{listed}{more}")
    if empty:
        print(f"Warning: {len(empty)} label(s) without any foreground: {some(sorted(empty))}.")
    return hashes


@contextmanager
def _results(convert: Callable, jobs: Sequence[tuple], num_processes: int) -> Iterator[Iterator[tuple]]:
    """Results of `convert(job)` as they come; in this process for one process, else from spawned workers.

    A pool of concurrent.futures notices a worker that died, where one of multiprocessing waits forever.
    """
    if num_processes <= 1:
        yield map(convert, jobs)
        return
    pool = ProcessPoolExecutor(
        max_workers=min(num_processes, len(jobs)), mp_context=get_context("spawn"), initializer=_end_with_parent
    )
    try:
        futures = [pool.submit(convert, job) for job in jobs]
        yield (future.result() for future in as_completed(futures))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, most often because memory ran out; nothing was written. "
            f"Found -np {num_processes}: try again with fewer processes, for example -np {max(1, num_processes // 2)}."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Idle workers of a killed pool would wait forever: each watches its parent and leaves with it."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _convert_case(
    job: tuple[Case, str, str | None], reader: Reader, dataset: DatasetDescription, staging: Path
) -> tuple[str, str, bool, str]:
    """Read, check and write one case. Returns case id, content hash, whether the label is empty, and the fault or ''."""
    case, images_folder, labels_folder = job
    try:
        images, label = reader(case)
        _check_images(case, images, label, dataset)
        if label is not None:
            label = _map_label(case, label, dataset.label_codes)
    except UserError as error:
        return case.case_id, "", False, str(error)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return case.case_id, "", False, f"case {case.case_id} ({case.source}) cannot be read: {error}. Check the input."
    for channel, image in enumerate(images):
        _write_image(image, staging / images_folder / f"{case.case_id}_{channel:04d}{FILE_ENDING}")
    if label is not None:
        _write_image(label, staging / labels_folder / f"{case.case_id}{FILE_ENDING}")
    content = content_hash([sitk.GetArrayViewFromImage(image) for image in images])
    return case.case_id, content, label is not None and not sitk.GetArrayViewFromImage(label).any(), ""


def _check_images(case: Case, images: list[sitk.Image], label: sitk.Image | None, dataset: DatasetDescription) -> None:
    where = f"case {case.case_id} ({case.source})"
    if len(images) != len(dataset.channel_names):
        raise UserError(
            f"{where}: {len(images)} image(s) found, {len(dataset.channel_names)} needed "
            f"({', '.join(dataset.channel_names.values())}). Complete the case."
        )
    named = [(f"image {name}", image) for name, image in zip(dataset.channel_names.values(), images, strict=True)]
    named += [("label", label)] if label is not None else []
    for name, image in named:
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise UserError(
                f"{where}: {name} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} component(s) "
                "per voxel; allowed are 3 and 1. Split it into volumes of one channel."
            )
    (reference_name, reference), *others = named
    for name, image in others:
        for what, found, expected, equal in (
            ("shape", image.GetSize(), reference.GetSize(), image.GetSize() == reference.GetSize()),
            ("spacing", *_compared(image.GetSpacing(), reference.GetSpacing(), None)),
            ("origin", *_compared(image.GetOrigin(), reference.GetOrigin(), ORIGIN_TOLERANCE)),
            ("direction", *_compared(image.GetDirection(), reference.GetDirection(), DIRECTION_TOLERANCE)),
        ):
            if not equal:
                raise UserError(
                    f"{where}: {what} of the {name} is {_numbers(found)}, that of the {reference_name} is {_numbers(expected)}. "
                    "They must agree; nothing is resampled or repaired silently. Correct the file or leave the case out."
                )
    for name, image in named:
        if "float" in image.GetPixelIDTypeAsString() and not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
            raise UserError(f"{where}: {name} holds voxels that are NaN or infinite. Only finite numbers are allowed.")


def _compared(found: tuple, expected: tuple, tolerance: float | None) -> tuple[tuple, tuple, bool]:
    keywords = {} if tolerance is None else {"rtol": 0, "atol": tolerance}
    return found, expected, np.allclose(found, expected, **keywords)


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _map_label(case: Case, label: sitk.Image, label_codes: Sequence[Mapping[int, int]]) -> sitk.Image:
    array = sitk.GetArrayViewFromImage(label)
    found = [value.item() for value in np.unique(array)]
    for codes in label_codes:
        if set(found) <= set(codes):
            mapped = np.zeros(array.shape, dtype=np.uint8)
            for code in found:
                mapped[array == code] = codes[int(code)]
            result = sitk.GetImageFromArray(mapped)
            result.CopyInformation(label)
            return result
    allowed = " or ".join("{" + ", ".join(map(str, sorted(codes))) + "}" for codes in label_codes)
    raise UserError(
        f"case {case.case_id}: label {case.label} holds the codes {_numbers(found[:20])}{'...' if len(found) > 20 else ''}; "
        f"allowed is {allowed}. Use the original label file, or leave the case out."
    )


def _write_image(image: sitk.Image, path: Path) -> None:
    """Write and look at the result, since SimpleITK does not report a file that it could not write completely."""
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise _incomplete(path, image) from error
    try:
        check_nifti(path)
    except UserError as error:
        raise _incomplete(path, image) from error


def _incomplete(path: Path, image: sitk.Image) -> OSError:
    size = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
    full = shutil.disk_usage(path.parent).free < size
    return OSError(errno.ENOSPC if full else errno.EIO, os.strerror(errno.ENOSPC if full else errno.EIO), str(path))


def _disk_message(error: OSError, target: Path) -> str:
    try:
        free = f"{shutil.disk_usage(target.parent).free / 2**20:.0f} MB are free"
    except OSError:
        free = "its free space is unknown"
    kept = f"{target} is as it was" if target.exists() else "nothing was kept"
    if error.errno in DISK_FULL:
        return (
            f"no space left on the disk of {target.parent} ({error}); {free}; {kept}. "
            "Free some space, or point nnUNet_raw to another disk, and run the command again."
        )
    return (
        f"{target.parent} cannot be written ({error}); {free}; {kept}. "
        "Check the permissions, the quota and the disk, or point nnUNet_raw elsewhere, and run the command again."
    )


def _report(
    dataset: DatasetDescription,
    assignment: Assignment,
    by_id: Mapping[str, Case],
    target: Path,
    split: Mapping[str, Sequence[str]],
) -> None:
    for part, folder in (
        ("labeled", "imagesTr, labelsTr"),
        ("validation", "imagesTr, labelsTr"),
        ("unlabeled", "imagesUn"),
        ("test", "imagesTs, labelsTs"),
    ):
        ids = getattr(assignment, part)
        print(f"{part:<10}  {len(ids):>5} cases of {len({by_id[i].patient for i in ids}):>5} patients   {folder}")
    without = [case_id for case_id in assignment.test if by_id[case_id].label is None]
    if without:
        print(f"{len(without)} test case(s) have no label and cannot be evaluated: {some(without, 5)}.")
    if assignment.validation:
        print(f"Fold 0 trains on the {len(split['train'])} labeled cases and validates on {len(split['val'])} others.")
    else:
        print(
            f"The protocol has no validation list: fold 0 trains on all {len(split['train'])} labeled cases and validates on the "
            "same cases. Compare methods on the test cases."
        )
    print(f"split hash  {split_hash(split)[:12]}")
    print(f"Written to {target}. Next: nnunet_ssl plan_and_preprocess -d {dataset.dataset_id}")
    from nnunetv2.paths import nnUNet_preprocessed

    if nnUNet_preprocessed.is_set() and (Path(str(nnUNet_preprocessed)) / dataset.folder_name).is_dir():
        print(
            f"Note: nnUNet_preprocessed/{dataset.folder_name} exists from an earlier conversion. Plan and preprocess again "
            "before training."
        )


def _report_identical(hashes: Mapping[str, str], dataset_id: int) -> None:
    """Name cases with the same voxels, as patient074 and patient076 of ACDC."""
    cases_of: dict[str, list[str]] = {}
    for case_id in sorted(hashes):
        cases_of.setdefault(hashes[case_id], []).append(case_id)
    identical = [" = ".join(cases) for cases in cases_of.values() if len(cases) > 1]
    if identical:
        print(
            f"Warning: {len(identical)} image(s) occur more than once, voxel for voxel: {some(identical)}. "
            f"`nnunet_ssl check -d {dataset_id}` tells whether one is on two sides of the split."
        )


def add_common_arguments(parser: argparse.ArgumentParser, default_id: int, default_name: str) -> None:
    """Arguments of every converter: args.input, .dataset_id, .name, .labeled, .seed, .split, .np, .overwrite."""
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="folder of the release")
    parser.add_argument(
        "-d",
        dest="dataset_id",
        type=int,
        default=default_id,
        metavar="ID",
        help=f"[OPTIONAL] data set id. Default: {default_id}",
    )
    parser.add_argument(
        "-name", default=default_name, help=f"[OPTIONAL] name after DatasetXXX_. Default: {default_name}"
    )
    parser.add_argument(
        "--labeled",
        metavar="N|FRACTION|LIST",
        help="[OPTIONAL] training patients whose labels are used: a number (8), a fraction (0.1, 10%%) or a file with one id "
        "per line. The labels of the others are not written. Default: all that have one",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="[OPTIONAL] choose the labeled patients at random with this seed. Default: the first ones of the train list, as the "
        "published protocols do",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        metavar="PATH",
        help="[OPTIONAL] list files (their names contain train, val or test), or the folder that holds them. Default: see above",
    )
    parser.add_argument(
        "-np",
        type=int,
        default=8,
        metavar="N",
        help="[OPTIONAL] number of processes. Default: 8",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace an existing data set of this id and name, once the new one is complete",
    )
