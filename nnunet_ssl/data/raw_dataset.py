"""A raw data set as it lies on disk, and the `unlabeled.json` that belongs to it."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.data.files import damaged_file, explain_reading_error, wrong_number_of_channels
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.unlabeled_list import FILE_NAME, CaseRecord, UnlabeledList, content_hash
from nnunet_ssl.errors import UserError, some

FOLDERS = {"unlabeled": "imagesUn", "labeled": "imagesTr", "test": "imagesTs"}


def dataset_name(name_or_id: str | int) -> str:
    """`DatasetXXX_Name` of an id or a name, as nnU-Net looks it up. UserError where nnU-Net finds none or several."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(name_or_id))
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error


def raw_folder(name: str) -> Path:
    """`nnUNet_raw/<name>`; UserError where the variable nnUNet_raw is not set."""
    from nnunetv2.paths import nnUNet_raw

    return _environment_folder(nnUNet_raw) / name


def preprocessed_folder(name: str) -> Path:
    """`nnUNet_preprocessed/<name>`; UserError where the variable nnUNet_preprocessed is not set."""
    from nnunetv2.paths import nnUNet_preprocessed

    return _environment_folder(nnUNet_preprocessed) / name


def _environment_folder(path: os.PathLike) -> Path:
    try:
        return Path(os.fspath(path))
    except RuntimeError as error:
        raise UserError(str(error)) from error


@dataclass
class RawDataset:
    """The cases of `nnUNet_raw/DatasetXXX_Name`: case id -> channel files, and label files where there are any."""

    name: str
    folder: Path
    dataset_json: dict
    labeled: dict[str, list[str]]
    unlabeled: dict[str, list[str]]
    test: dict[str, list[str]]
    labels: dict[str, str]
    test_labels: dict[str, str]

    @classmethod
    def open(cls, name_or_id: str | int) -> RawDataset:
        """List the data set.

        Raises:
            UserError: no such data set; dataset.json missing or malformed; a channel file missing; a file of `imagesUn`
                that is not named CASE_XXXX with the data set's file ending; one id in `imagesUn` and `imagesTr`.
        """
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        name = dataset_name(name_or_id)
        folder = raw_folder(name)
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist; this command reads the raw images. Set nnUNet_raw to their folder."
            )
        dataset_json = _load_dataset_json(folder / "dataset.json")
        ending = dataset_json["file_ending"]
        if "dataset" in dataset_json:
            entries = get_filenames_of_train_images_and_targets(str(folder), json.loads(json.dumps(dataset_json)))
            labeled = {case: list(entry["images"]) for case, entry in sorted(entries.items())}
            labels = {case: entry["label"] for case, entry in sorted(entries.items())}
        else:
            labeled = _list_images(folder / "imagesTr", ending)
            labels = {case: str(folder / "labelsTr" / f"{case}{ending}") for case in labeled}
        if not labeled:
            raise UserError(
                f"{folder / 'imagesTr'} holds no case CASE_0000{ending}; at least one labeled case is needed to plan."
            )
        for case, label in labels.items():
            if not Path(label).is_file():
                raise UserError(
                    f"{label} does not exist: case {case} lies in imagesTr without a label. Add the label, or move its "
                    "images to imagesUn to use them as unlabeled."
                )
        unlabeled = _list_images(folder / "imagesUn", ending)
        test = _list_images(folder / "imagesTs", ending)
        channels = sorted({_channel(file, ending) for file in next(iter(labeled.values()))})
        for kind, cases in (("labeled", labeled), ("unlabeled", unlabeled), ("test", test)):
            if kind != "labeled" or "dataset" not in dataset_json:
                _check_channels(folder / FOLDERS[kind], cases, channels, ending)
        both = sorted(set(unlabeled) & set(labeled))
        if both:
            raise UserError(
                f"{folder}: {some(both, 5)} lie(s) in imagesUn and in imagesTr. A case id may occur once; delete or "
                "rename the copy in imagesUn."
            )
        test_labels = {case: str(folder / "labelsTs" / f"{case}{ending}") for case in test}
        test_labels = {case: file for case, file in test_labels.items() if Path(file).is_file()}
        return cls(name, folder, dataset_json, labeled, unlabeled, test, labels, test_labels)

    @property
    def preprocessed(self) -> Path:
        """Its folder in nnUNet_preprocessed; UserError where this variable is not set."""
        return preprocessed_folder(self.name)

    @property
    def file_ending(self) -> str:
        return self.dataset_json["file_ending"]

    @property
    def number_of_channels(self) -> int:
        return len(self.dataset_json.get("channel_names", self.dataset_json.get("modality")))

    def images(self, section: str) -> dict[str, list[str]]:
        """Case -> channel files of `section`, one of unlabeled, labeled, test."""
        return {"unlabeled": self.unlabeled, "labeled": self.labeled, "test": self.test}[section]

    def reader_writer_class(self) -> type:
        """nnU-Net's reader for these files, chosen as nnU-Net chooses it."""
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        example = next(iter(self.labeled.values()))[0]
        try:
            return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)
        except RuntimeError as error:
            raise UserError(
                f"{example} cannot be read by any of nnU-Net's readers for '{self.dataset_json['file_ending']}': the file "
                f"is damaged or the file ending in {self.folder / 'dataset.json'} is wrong. Restore the file."
            ) from error


def _load_dataset_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. `nnunet_ssl convert` writes it; nnU-Net describes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid JSON ({error}). Correct it.") from error
    for key, alternative in (("file_ending", None), ("labels", None), ("channel_names", "modality")):
        if key not in content and alternative not in content:
            raise UserError(f"{file} lacks the key '{key}'; nnU-Net needs it. Add it.")
    return content


def _list_images(folder: Path, ending: str) -> dict[str, list[str]]:
    """Case -> its channel files, both sorted. A folder that does not exist holds no cases."""
    if not folder.is_dir():
        return {}
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    image_endings = {end for reader in LIST_OF_IO_CLASSES for end in reader.supported_file_endings} | {".nii"}
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    cases: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        if match := pattern.fullmatch(file.name):
            cases.setdefault(match.group(1), []).append(str(file))
        elif file.name.lower().endswith(tuple(image_endings)):
            # nnU-Net would pass over such a file without a word
            raise UserError(f"{file}: an image in {folder.name} must be named CASE_XXXX{ending}. Rename or convert it.")
    return dict(sorted(cases.items()))


def _channel(file: str, ending: str) -> str:
    return Path(file).name[: -len(ending)][-4:]


def _check_channels(folder: Path, cases: Mapping[str, Sequence[str]], channels: Sequence[str], ending: str) -> None:
    for case, files in cases.items():
        found = [_channel(file, ending) for file in files]
        for channel in channels:
            if channel not in found:
                raise UserError(
                    f"{folder / f'{case}_{channel}{ending}'} does not exist: case {case} has channel(s) "
                    f"{', '.join(found)}, the labeled cases have {', '.join(channels)}. Add the file or remove the case."
                )
        extra = sorted(set(found) - set(channels))
        if extra:
            raise UserError(
                f"{folder / f'{case}_{extra[0]}{ending}'}: the labeled cases have only channel(s) {', '.join(channels)}. "
                "Remove the file."
            )


def read_case(case: str, image_files: Sequence[str], reader_writer_class: type) -> tuple[np.ndarray, dict]:
    """Image `(C, *spatial)` and properties of a case, as nnU-Net's reader returns them.

    Raises:
        UserError: a file is damaged, or the channels do not fit together; names the case and the file.
    """
    problem = damaged_file(case, image_files)
    if problem is None:
        try:
            return reader_writer_class().read_images([str(file) for file in image_files])
        except Exception as error:  # readers of five libraries raise whatever they like on a damaged file
            problem = explain_reading_error(case, image_files, reader_writer_class)
            problem = problem or f"case {case} ({', '.join(image_files)}): {type(error).__name__}: {error}"
    raise UserError(problem)


def read_label_map(case: str, file: str, reader_writer_class: type) -> tuple[np.ndarray, dict]:
    """Label map `(1, *spatial)` and properties, as nnU-Net's reader returns them. UserError names a file that is damaged."""
    problem = damaged_file(case, [file])
    if problem is not None:
        raise UserError(problem)
    try:
        return reader_writer_class().read_seg(str(file))
    except Exception as error:  # see read_case
        raise UserError(f"case {case}: {file} cannot be read ({type(error).__name__}: {error}). Restore it.") from error


def _hash_job(case: str, image_files: list[str], reader_writer_class: type, number_of_channels: int) -> tuple[str, str]:
    """`(hash, "")` or `("", what is wrong)`."""
    try:
        images, _ = read_case(case, image_files, reader_writer_class)
    except UserError as error:
        return "", str(error)
    if len(images) != number_of_channels:
        return "", wrong_number_of_channels(case, image_files, len(images), number_of_channels)
    return content_hash(images), ""


def update_list(raw: RawDataset, num_processes: int, rehash: bool = False, show_progress: bool = True) -> UnlabeledList:
    """Bring `unlabeled.json` up to date with the images, in the raw folder and in `nnUNet_preprocessed`.

    Hashes of an existing list are reused for a folder whose case ids are those of the list, except for images changed
    after the list was written; `rehash` computes all. Groups and hidden labels of existing lists are kept. Where the raw
    folder cannot be written to, only the copy in `nnUNet_preprocessed` is.

    Raises:
        UserError: an image cannot be read or has the wrong number of channels; a list is malformed.
    """
    files = {"raw": raw.folder / FILE_NAME, "preprocessed": raw.preprocessed / FILE_NAME}
    lists = {place: UnlabeledList.load(file) for place, file in files.items() if file.is_file()}
    written = {place: files[place].stat().st_mtime_ns for place in lists}

    new = UnlabeledList()
    jobs, targets = [], []
    for section, folder in FOLDERS.items():
        cases = raw.images(section)
        trusted = [p for p in lists if not rehash and set(getattr(lists[p], section)) == set(cases)]
        for case, image_files in cases.items():
            source = f"{folder}/{Path(image_files[0]).name}"
            for place in lists:
                if record := getattr(lists[place], section).get(case):
                    source = record.source
                    break
            changed = max(os.stat(file).st_mtime_ns for file in image_files)
            known = [getattr(lists[p], section)[case].sha256 for p in trusted if changed <= written[p]]
            getattr(new, section)[case] = CaseRecord(source, known[0] if known else "")
            if not known:
                jobs.append((case, image_files))
                targets.append((section, case))

    if jobs:
        reader = raw.reader_writer_class()
        jobs = [(case, image_files, reader, raw.number_of_channels) for case, image_files in jobs]
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
            new.groups.update(lists[place].groups)
            # the copy in nnUNet_preprocessed is the one that training reads, so its hidden labels win
            new.hidden_labels = new.hidden_labels or lists[place].hidden_labels
    everything = {*new.unlabeled, *new.labeled, *new.test}
    new.groups = {case: patient for case, patient in new.groups.items() if case in everything}
    new.hidden_labels = {f: [c for c in cases if c in new.labeled] for f, cases in new.hidden_labels.items()}
    save_list(new, raw.name, only_if_changed=not jobs)
    return new


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


_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # raw data is often mounted read-only
