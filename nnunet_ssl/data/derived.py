"""A raw data set made from another one: the same images and lists, other labels; complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.geometry import has_spacing_files, spacing_file
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.list_update import load_list
from nnunet_ssl.data.listing import channels_of_cases, files_with_ending
from nnunet_ssl.data.ownership import file_state
from nnunet_ssl.data.progress import progress
from nnunet_ssl.data.raw_dataset import DENSE_FOLDER, FOLDERS, RawDataset, read_label_map
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import load_splits, split_hash
from nnunet_ssl.data.staging import disk_message, put_in_place, recover, staging_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList, known_groups
from nnunet_ssl.errors import UserError, listed, some

_JOURNAL = ".{}.unfinished.json"  # of the last file: what is being moved, with sizes and times
# under `nnunet_ssl` of dataset.json: data set -> `hash_labels`, `hash_lists`
LABELS_HASH, LISTS_HASH = "source_labels_sha256", "source_lists_sha256"


@contextlib.contextmanager
def under_construction(target: Path) -> Iterator[Path]:
    """A hidden sibling of `target` to write into, which takes its place at the end, or is removed after an error.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    with scratch_folder(target) as staging:
        yield staging
        put_in_place(staging, target)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, gone at the end; of those that killed processes left, `recover` removes the rest.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    staging = staging_folder(target)
    try:
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        raise UserError(disk_message(error, target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def files_under_construction(folder: Path, last: str) -> Iterator[Path]:
    """A hidden folder beside `folder` whose files are moved into it at the end; other files there stay.

    Args:
        last: the file that says that the others are complete: an old one goes first, the new one comes last.

    Raises:
        UserError: the disk is full or cannot be written; `folder` is as it was then.
    """
    recover(folder)
    with scratch_folder(folder) as staging:
        yield staging
        folder.mkdir(exist_ok=True)
        (folder / last).unlink(missing_ok=True)
        files = sorted(staging.iterdir(), key=lambda file: file.name == last)
        journal = folder / _JOURNAL.format(last)
        write_json_atomically({file.name: file_state(file) for file in files}, journal)
        for file in files:
            os.replace(file, folder / file.name)
        journal.unlink()


def left_unfinished(folder: Path, last: str) -> list[str]:
    """Files in `folder` that a killed process has put there in `files_under_construction`."""
    try:
        states = json.loads((folder / _JOURNAL.format(last)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name, state in states.items() if (folder / name).is_file() and file_state(folder / name) == state]


def _folders(raw: RawDataset) -> list[Path]:
    """The raw folder, and the preprocessed one where nnU-Net's variable names it."""
    from nnunetv2.paths import nnUNet_preprocessed

    return [raw.folder, raw.preprocessed] if nnUNet_preprocessed.is_set() else [raw.folder]


def carried_list(raw: RawDataset) -> UnlabeledList | None:
    """unlabeled.json of the data set, from the raw folder, else from the preprocessed one; None where neither has one.

    Groups are those of both folders and of dataset.json. Hidden labels of the preprocessed folder are taken where the raw one has
    none: raw data are often mounted read-only. Hashes of images changed since are left out: a list written from this one is newer.
    """
    folders = _folders(raw)
    lists = [load_list(folder / LIST_FILE, raw) for folder in folders if (folder / LIST_FILE).is_file()]
    groups = known_groups(*reversed(folders))
    if not lists and not groups:
        return None
    found, *others = lists or [UnlabeledList()]
    found.groups = groups
    for other in others:
        found.hidden_labels = found.hidden_labels or other.hidden_labels
    return found


def carried_lists(raw: RawDataset) -> tuple[UnlabeledList | None, list[dict[str, list[str]]] | None]:
    """`carried_list` and splits_final.json, from the raw folder, else from the preprocessed one; None where neither has one."""
    splits = [folder / SPLITS_FILE for folder in _folders(raw) if (folder / SPLITS_FILE).is_file()]
    return carried_list(raw), load_splits(splits[0], raw.labeled) if splits else None


def hash_labels(raw: RawDataset, dense: Mapping[str, str]) -> str:
    """SHA-256 of all label files that another data set is made of, by their bytes. `dense`: case -> dense label file."""
    digest = hashlib.sha256()
    for folder, files in (("labelsTr", raw.labels), (DENSE_FOLDER, dense), ("labelsTs", raw.test_labels)):
        for case, file in sorted(files.items()):
            digest.update(f"{folder}/{case} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def hash_lists(
    raw: RawDataset, case_list: UnlabeledList | None, splits: Sequence[Mapping[str, Sequence[str]]] | None = None
) -> str:
    """SHA-256 of patients, hidden labels and splits that another data set takes over; hashes and sources of images do not enter."""
    case_list = case_list or UnlabeledList()
    cases = {case for section in FOLDERS for case in raw.images(section)}
    patients = {case: patient for case, patient in case_list.groups.items() if case in cases and patient != case}
    hidden = {fold: sorted(set(names) & set(raw.labeled)) for fold, names in case_list.hidden_labels.items()}
    content = [patients, {fold: names for fold, names in hidden.items() if names}, list(map(split_hash, splits or ()))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def case_ids(raw: RawDataset, dense: Collection[str]) -> dict[str, set[str]]:
    """Folder -> the case ids that a data set has there which is made of this one; `dense`: those of dense labels."""
    images = {folder: set(raw.images(section)) for section, folder in FOLDERS.items()}
    return images | {"labelsTr": set(raw.labels), DENSE_FOLDER: set(dense), "labelsTs": set(raw.test_labels)}


def same_request(target: Path, dataset_json: Mapping, cases: Mapping[str, Collection[str]]) -> bool:
    """Whether `target` was made by the same command of the same data: equal dataset.json and equal case ids.

    Args:
        dataset_json: with what was made of which labels and lists under `nnunet_ssl`; earlier versions have not recorded their
            hashes.
        cases: folder -> case ids, of every folder with images or labels.
    """
    try:
        present = read_json(target / "dataset.json")
        ending = dataset_json["file_ending"]
        for folder, ids in cases.items():
            list_cases = channels_of_cases if folder in FOLDERS.values() else files_with_ending
            if set(list_cases(target / folder, ending)) != set(ids):
                return False
    except UserError:
        return False
    own = dict(dataset_json["nnunet_ssl"])
    if isinstance(present.get("nnunet_ssl"), dict):
        own = {
            key: value
            for key, value in own.items()
            if key not in {LABELS_HASH, LISTS_HASH} - set(present["nnunet_ssl"])
        }
    return present == {**dataset_json, "nnunet_ssl": own}


def refuse_other_images(raw: RawDataset) -> None:
    """UserError for images with another ending under the key `dataset`, which a data set made from this one could not have."""
    for case, files in raw.labeled.items():
        for file in files:
            if not file.endswith(raw.file_ending):
                raise UserError(
                    f"{raw.folder / 'dataset.json'}: dataset.{case}.images names {file}; 'file_ending' is {raw.file_ending}, the "
                    "ending that files of the new data set must have. Convert the image."
                )


def _placed_images(raw: RawDataset, folder: Path, prefix: str = "") -> list[tuple[str, Path]]:
    """Image files, each with where it lies in the folder of a data set that is made of this one."""
    images: list[tuple[str, Path]] = []
    for section, cases in (("imagesTr", raw.labeled), ("imagesUn", raw.unlabeled), ("imagesTs", raw.test)):
        for case, channels in cases.items():
            names = [f"{prefix}{case}_{i:04d}{raw.file_ending}" for i in range(len(channels))]
            images += [(file, folder / section / name) for file, name in zip(channels, names)]
    return images


def holds_images(raw: RawDataset, target: Path, prefix: str = "") -> bool:
    """Whether all images of a data set lie in `target`, as links or as copies with the same bytes. `prefix`: of the ids there."""
    return all(
        placed.exists() and (os.path.samefile(file, placed) or filecmp.cmp(file, placed, shallow=False))
        for file, placed in _placed_images(raw, target, prefix)
    )


def place_files(raw: RawDataset, dense: Mapping[str, str], staging: Path, copy: bool) -> bool:
    """Link (or copy) images, dense labels (case -> file) and test labels, with the spacing beside TIFFs. Whether they are links."""
    ending = raw.file_ending
    images = _placed_images(raw, staging)
    labels = [(file, staging / DENSE_FOLDER / f"{case}{ending}") for case, file in dense.items()]
    labels += [(file, staging / "labelsTs" / f"{case}{ending}") for case, file in raw.test_labels.items()]
    spacings = {
        spacing_file(target, is_image): str(spacing_file(source, is_image))
        for placed, is_image in ((images, True), (labels, False))
        for source, target in placed
        if has_spacing_files(raw.reader_writer_class) and spacing_file(source, is_image).is_file()
    }
    files = [*images, *labels, *((source, target) for target, source in spacings.items())]
    for folder in {file.parent for _, file in files} | {staging / "labelsTr"}:
        folder.mkdir()
    # links take no time, and need no line in a log
    with progress(len(files), "Copying" if copy else "Linking", copy or sys.stderr.isatty()) as bar:
        for source, target in files:
            copy = _place(source, target, copy)
            bar.update()
    return not copy


def _place(source: str, target: Path, copy: bool) -> bool:
    """Link or copy a file; whether the next ones are to be copied."""
    if not copy:
        try:
            # the file itself where the data set holds a symbolic link to it
            os.link(os.path.realpath(source), target)
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            print(f"{source} cannot be linked to {target.parent} ({error.strerror}); the files are copied.")
    shutil.copyfile(source, target)
    return True


def refuse_faulty_cases(faults: Iterable[str], number: int, verb: str) -> None:
    """UserError that lists the faults of a data set of `number` cases, if there are any; `verb`: what cannot be done."""
    faults = sorted(fault for fault in faults if fault)
    if faults:
        raise UserError(f"{len(faults)} of {number} cases cannot be {verb}; nothing was written.\n{listed(faults)}")


def read_label(case: str, file: str, reader: type, codes: Collection[int]) -> tuple[np.ndarray, dict]:
    """Label map (uint16) and nnU-Net's properties. UserError: a damaged file, or a code that is none of `codes`."""
    array, properties = read_label_map(case, file, reader)
    array = array[0]
    found = np.unique(array)
    unknown = [f"{code:g}" for code in found.tolist() if code not in codes]
    if unknown:
        raise UserError(
            f"case {case}: {file} holds the code(s) {some(unknown)}; dataset.json names "
            f"{', '.join(map(str, sorted(codes)))}. Correct the file or the key 'labels'."
        )
    return array.astype(np.uint16), properties


def write_label(labels: np.ndarray, target: Path, reader: type, properties: dict) -> None:
    """Write and read again, since SimpleITK does not report a file that it could not write completely."""
    try:
        reader().write_seg(labels, str(target), properties)
        written, _ = reader().read_seg(str(target))
        complete = np.array_equal(written[0], labels)
    except RuntimeError:
        complete = False
    if not complete:
        full = shutil.disk_usage(target.parent).free < labels.nbytes
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(target))
