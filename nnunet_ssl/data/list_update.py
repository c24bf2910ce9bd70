"""`unlabeled.json` and `splits_final.json` brought up to date with a raw data set, before it is preprocessed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from nnunet_ssl.data.files import wrong_number_of_channels
from nnunet_ssl.data.geometry import other_axes
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import FOLDERS, RawDataset, preprocessed_folder, raw_folder, read_case
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import check_copy, copy_splits, load_splits
from nnunet_ssl.data.unlabeled_list import FILE_NAME, CaseRecord, UnlabeledList, content_hash, known_groups
from nnunet_ssl.errors import UserError

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # raw data is often mounted read-only


def prepare_lists(
    raw: RawDataset,
    num_processes: int,
    rehash: bool,
    overwrite: bool,
    show_progress: bool = True,
    before_writing: Callable[[UnlabeledList], object] | None = None,
) -> UnlabeledList:
    """Bring `splits_final.json` and `unlabeled.json` of `nnUNet_preprocessed` up to date with the raw data set.

    Hidden labels belong to a split. Where the split that is now in force trains or validates on a case whose label was
    hidden, the hidden labels are dropped, which is said.

    Args:
        before_writing: further checks, given the list, whose errors leave everything as it was.

    Raises:
        UserError: see `copy_splits` and `update_list`.
    """
    if unread := raw.unread_files():
        print(f"Warning: {unread}")
    check_copy(raw.folder, raw.preprocessed, overwrite, raw.labeled)
    content = update_list(raw, num_processes, rehash, show_progress, before_writing)
    splits_file = copy_splits(raw.folder, raw.preprocessed, overwrite, raw.labeled) or raw.preprocessed / SPLITS_FILE
    if splits_file.is_file() and content.hidden_labels:
        splits = load_splits(splits_file, raw.labeled)
        in_use = {str(fold): {*split["train"], *split["val"]} for fold, split in enumerate(splits)}
        clash = [f for f, hidden in content.hidden_labels.items() if f not in in_use or in_use[f] & set(hidden)]
        if clash:
            print(
                f"The hidden labels of fold(s) {', '.join(clash)} belong to another split than {splits_file} and are "
                f"dropped. Run `nnunet_ssl split -d {raw.id} --labeled ...` to hide labels again."
            )
            content.hidden_labels = {}
            save_list(content, raw.name)
    elif not splits_file.is_file():
        print(
            f"{splits_file} does not exist. nnU-Net would make a random split on its own, by case and not by patient. "
            f"Write one with `nnunet_ssl split -d {raw.id} --labeled 1.0` (all labels are used)."
        )
    return content


def update_list(
    raw: RawDataset,
    num_processes: int,
    rehash: bool = False,
    show_progress: bool = True,
    before_writing: Callable[[UnlabeledList], object] | None = None,
) -> UnlabeledList:
    """Bring `unlabeled.json` up to date with the images, in the raw folder and in `nnUNet_preprocessed`.

    Hashes of an existing list are reused (see `load_list`); `rehash` computes all. Groups and hidden labels of existing lists are
    kept, and groups of dataset.json added. Where the raw folder cannot be written to, only the copy in `nnUNet_preprocessed` is.

    Raises:
        UserError: an image cannot be read or has the wrong number of channels; a list is malformed.
    """
    files = {"raw": raw.folder / FILE_NAME, "preprocessed": raw.preprocessed / FILE_NAME}
    lists = {place: load_list(file, raw) for place, file in files.items() if file.is_file()}

    new = UnlabeledList()
    jobs, targets = [], []
    for section, folder in FOLDERS.items():
        cases = raw.images(section)
        for case, image_files in cases.items():
            records = [record for content in lists.values() if (record := getattr(content, section).get(case))]
            source = records[0].source if records else f"{folder}/{Path(image_files[0]).name}"
            known = "" if rehash else next((record.sha256 for record in records if record.sha256), "")
            getattr(new, section)[case] = CaseRecord(source, known)
            if not known:
                jobs.append((case, image_files))
                targets.append((section, case))

    if jobs:
        reader = raw.reader_writer_class
        jobs = [(case, image_files, reader, raw.number_of_channels, raw.example(case)) for case, image_files in jobs]
        problems = []
        for index, (digest, problem) in run_in_processes(
            _hash_job, jobs, num_processes, "Hashing images", show_progress
        ):
            section, case = targets[index]
            getattr(new, section)[case].sha256 = digest
            if problem:
                problems.append(problem)
        if problems:
            raise UserError("\n".join(sorted(problems)))

    for place in ("preprocessed", "raw"):
        if place in lists:
            # the copy in nnUNet_preprocessed is the one that training reads, so its hidden labels win
            new.hidden_labels = new.hidden_labels or lists[place].hidden_labels
    everything = {*new.unlabeled, *new.labeled, *new.test}
    groups = known_groups(raw.preprocessed, raw.folder)
    new.groups = {case: patient for case, patient in groups.items() if case in everything}
    new.hidden_labels = {f: [c for c in cases if c in new.labeled] for f, cases in new.hidden_labels.items()}
    if before_writing is not None:
        before_writing(new)
    save_list(new, raw.name, only_if_changed=not jobs)
    return new


def load_list(file: Path, raw: RawDataset) -> UnlabeledList:
    """An unlabeled.json of the data set, without the hashes (`""`) that may no longer be those of the images.

    Hashes hold for a folder whose case ids are those of the list, except for images changed after the list was written.
    """
    content, written = UnlabeledList.load(file), file.stat().st_mtime_ns
    for section in FOLDERS:
        records, images = getattr(content, section), raw.images(section)
        for case, record in records.items():
            if set(records) != set(images) or max(map(last_change, images[case])) > written:
                record.sha256 = ""
    return content


def last_change(file: str) -> int:
    """When the image was changed, replaced or linked to something else, in nanoseconds.

    `cp -p`, `mv` and `rsync -a` keep the time of the file they take, but not that of the entry (ctime). Further names (hard links)
    and permissions change that too: such an image is hashed once more.
    """
    return max(time for status in (os.stat(file), os.lstat(file)) for time in (status.st_mtime_ns, status.st_ctime_ns))


def _hash_job(
    case: str, image_files: list[str], reader_writer_class: type, number_of_channels: int, example: str
) -> tuple[str, str]:
    """`(hash, "")` or `("", what is wrong)`. `example`: an image with as many axes as all must have."""
    try:
        images, _ = read_case(case, image_files, reader_writer_class)
    except UserError as error:
        return "", str(error)
    if problem := other_axes(case, image_files, example, reader_writer_class):
        return "", problem
    if len(images) != number_of_channels:
        return "", wrong_number_of_channels(case, image_files, len(images), number_of_channels)
    return content_hash(images), ""


def save_list(content: UnlabeledList, name: str, only_if_changed: bool = False) -> None:
    """Write `unlabeled.json` to `nnUNet_preprocessed/<name>`, and to `nnUNet_raw/<name>` where that can be written."""
    preprocessed, raw = preprocessed_folder(name), raw_folder(name)
    preprocessed.mkdir(parents=True, exist_ok=True)
    for folder in (preprocessed, raw):
        file = folder / FILE_NAME
        if not folder.is_dir() or (only_if_changed and file.is_file() and UnlabeledList.load(file) == content):
            continue
        try:
            content.save(file)
        except OSError as error:
            if folder == preprocessed or error.errno not in _READ_ONLY:
                raise
            print(f"{file} cannot be written ({error.strerror}); only {preprocessed / FILE_NAME} is.")
