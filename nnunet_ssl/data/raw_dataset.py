"""A raw data set as it lies on disk: its folders, its cases and their files, and how they are read."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.files import NOT_FINITE, damaged_file, explain_reading_error
from nnunet_ssl.data.geometry import geometry_hash, read_grid
from nnunet_ssl.data.json_files import expect, read_json
from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.data.listing import channels_of_cases, files_with_ending, refuse_hidden_files, refuse_other_endings
from nnunet_ssl.data.names import check_case_ids, check_ids_of_files, dataset_number, plain_name
from nnunet_ssl.data.texts import whole_number
from nnunet_ssl.errors import UserError, excerpt, some

FOLDERS = {"unlabeled": "imagesUn", "labeled": "imagesTr", "test": "imagesTs"}
DENSE_FOLDER = "labelsTr_dense"  # dense labels of training cases whose labels are sparse or partial
MASKS_FOLDER = "masksUn"  # label maps without images


def dataset_name(name_or_id: str | int) -> str:
    """`DatasetXXX_Name` of an id or a name, as nnU-Net looks it up; a name may end with the slash that a shell adds to a folder.

    Raises:
        UserError: nnU-Net finds none or several, or one whose id only begins with this one; a path.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    given = plain_name(str(name_or_id).removesuffix("/"), "-d, -i")
    try:
        found = plain_name(str(maybe_convert_to_dataset_name(given)), "-d, -i")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"data set {given}: {error}") from error
    # nnU-Net looks for names that begin with Dataset123, as Dataset1234_Other does
    if not given.startswith("Dataset") and whole_number(dataset_number(found)) != int(given):
        raise UserError(
            f"data set {given}: there is none of this id. Found: {found}, whose id is {dataset_number(found)}."
        )
    return found


def raw_folder(name: str) -> Path:
    """`nnUNet_raw/<name>`; UserError where the variable nnUNet_raw is not set."""
    return nnunet_folder("nnUNet_raw") / name


def preprocessed_folder(name: str) -> Path:
    """`nnUNet_preprocessed/<name>`; UserError where the variable nnUNet_preprocessed is not set."""
    return nnunet_folder("nnUNet_preprocessed") / name


def _refuse_one_folder_for_both(raw: Path, name: str) -> None:
    """UserError where nnU-Net would write what it makes of the raw data set into it."""
    from nnunetv2.paths import nnUNet_preprocessed

    if nnUNet_preprocessed.is_set() and preprocessed_folder(name).resolve() == raw.resolve():
        raise UserError(
            f"{raw} and {preprocessed_folder(name)} are one folder; raw and preprocessed data need two. Set nnUNet_preprocessed to "
            "another folder."
        )


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
        _refuse_one_folder_for_both(folder, name)
        dataset_json = load_dataset_json(folder / "dataset.json")
        ending = dataset_json["file_ending"]
        if "dataset" in dataset_json:
            entries = get_filenames_of_train_images_and_targets(str(folder), copy.deepcopy(dataset_json))
            labeled = {case: list(entry["images"]) for case, entry in sorted(entries.items())}
            labels = {case: entry["label"] for case, entry in sorted(entries.items())}
        else:
            labeled = _list_images(folder / "imagesTr", ending)
            labels = {case: str(folder / "labelsTr" / f"{case}{ending}") for case in labeled}
        if not labeled:
            raise UserError(
                f"{folder / 'imagesTr'} holds no case CASE_0000{ending}; at least one labeled case is needed to plan."
            )
        if "dataset" not in dataset_json:
            _check_pairs(folder, labeled, dataset_json)
        for case, label in labels.items():
            if not Path(label).is_file():
                raise UserError(
                    f"{label} does not exist: case {case} lies in imagesTr without a label. Add the label, or move its "
                    "images to imagesUn to use them as unlabeled."
                )
        unlabeled = _list_images(folder / "imagesUn", ending)
        test = _list_images(folder / "imagesTs", ending)
        # under the key `dataset` files have any names, and channels their place in the list
        number = len(next(iter(labeled.values())))
        channels = [f"{channel:04d}" for channel in range(number)]
        if "dataset" in dataset_json:
            _check_listed(folder / "dataset.json", labeled, labels, number, ending)
        else:
            channels = sorted({_channel(file, ending) for file in next(iter(labeled.values()))})
            _check_channels(folder / FOLDERS["labeled"], labeled, channels, ending)
        for kind, cases in (("unlabeled", unlabeled), ("test", test)):
            _check_channels(folder / FOLDERS[kind], cases, channels, ending)
        check_ids_of_files([*labeled, *unlabeled, *test], ending, str(folder))
        check_case_ids([*labeled, *unlabeled], str(folder))
        check_case_ids(test, str(folder / FOLDERS["test"]))
        both = sorted(set(unlabeled) & set(labeled))
        if both:
            raise UserError(
                f"{folder}: {some(both, 5)} lie(s) in imagesUn and in imagesTr. A case id may occur once; delete or "
                "rename the copy in imagesUn."
            )
        test_labels = {c: file for c, file in _list_labels(folder / "labelsTs", ending).items() if c in test}
        return cls(name, folder, dataset_json, labeled, unlabeled, test, labels, test_labels)

    @cached_property
    def preprocessed(self) -> Path:
        """`nnUNet_preprocessed/DatasetXXX_Name`; UserError where the variable nnUNet_preprocessed is not set."""
        return preprocessed_folder(self.name)

    @property
    def id(self) -> str:
        """The digits of `DatasetXXX_Name`, as commands take them after -d."""
        return dataset_number(self.name)

    @property
    def file_ending(self) -> str:
        """Of images and label maps, with its dot."""
        return self.dataset_json["file_ending"]

    @property
    def channel_names(self) -> list[str]:
        return list(self.dataset_json.get("channel_names", self.dataset_json.get("modality")).values())

    @property
    def number_of_channels(self) -> int:
        return len(self.channel_names)

    def images(self, section: str) -> dict[str, list[str]]:
        """Case -> channel files of `section`, one of unlabeled, labeled, test."""
        return {"unlabeled": self.unlabeled, "labeled": self.labeled, "test": self.test}[section]

    def label_files(self, section: str) -> dict[str, str]:
        """Case -> label file of `section`, for the cases that have one; those of `unlabeled` have none."""
        return {"unlabeled": {}, "labeled": self.labels, "test": self.test_labels}[section]

    def example(self, case: str) -> str:
        """An image of another labeled case, if there is one, to compare headers with."""
        return next(
            (files[0] for name, files in self.labeled.items() if name != case), next(iter(self.labeled.values()))[0]
        )

    def geometry(self, case: str) -> str:
        """`geometry_hash` of a labeled or unlabeled case. Its images must be readable, as the hashes of all cases have shown."""
        files = self.labeled.get(case) or self.unlabeled[case]
        return geometry_hash(files, self.reader_writer_class)

    def files(self) -> list[str]:
        """Every image and label map that was listed."""
        of_cases = [file for section in FOLDERS for files in self.images(section).values() for file in files]
        return [*of_cases, *self.labels.values(), *self.test_labels.values()]

    def unused_test_labels(self) -> str:
        """Says which label maps of `labelsTs` belong to no test image; empty where all do."""
        folder = self.folder / "labelsTs"
        unused = sorted(set(_list_labels(folder, self.file_ending)) - set(self.test))
        return f"{folder}: {len(unused)} label map(s) without an image in imagesTs: {some(unused, 5)}" if unused else ""

    def unread_files(self) -> str:
        """Says which unlabeled and test images and masks lie in sub-folders, where nobody reads them; empty where none does."""
        found = [
            str(Path(parent, name).relative_to(self.folder))
            for part in (FOLDERS["unlabeled"], FOLDERS["test"], MASKS_FOLDER)
            for parent, _, names in sorted(os.walk(self.folder / part))
            if Path(parent) != self.folder / part
            for name in sorted(names)
            if name.endswith(self.file_ending) and not name.startswith(".")
        ]
        if not found:
            return ""
        return (
            f"{self.folder}: {len(found)} file(s) in sub-folders are not read: {some(found, 3)}. Move them up, images as "
            f"CASE_XXXX{self.file_ending}, masks as CASE{self.file_ending}."
        )

    def dense_files(self) -> dict[str, str]:
        """Training case -> its dense label file, where labels are sparse or partial and the data set has dense ones too.

        Raises:
            UserError: a file of `labelsTr_dense` belongs to no training case, or labels are neither sparse nor partial.
        """
        folder = self.folder / DENSE_FOLDER
        files = _list_labels(folder, self.file_ending)
        unknown = sorted(set(files) - set(self.labeled))
        if unknown:
            raise UserError(
                f"{folder} holds label maps of {some(unknown, 5)}, which are not in imagesTr. Rename or remove them."
            )
        if files and "ignore" not in self.dataset_json["labels"] and PARTIAL_LABELS not in self.dataset_json:
            raise UserError(
                f"{folder} holds dense labels, which are for validation where labelsTr is sparse or partial, but the labels of "
                f"{self.folder / 'dataset.json'} have no 'ignore', and it has no key '{PARTIAL_LABELS}'. Add what fits, or "
                "remove the folder."
            )
        return files

    def mask_files(self) -> dict[str, str]:
        """Name of a mask without image -> its file."""
        return _list_labels(self.folder / MASKS_FOLDER, self.file_ending)

    @cached_property
    def reader_writer_class(self) -> type:
        """nnU-Net's reader for these files, chosen as nnU-Net chooses it. UserError where none of them can read them."""
        from nnunetv2.imageio.reader_writer_registry import (
            LIST_OF_IO_CLASSES,
            determine_reader_writer_from_dataset_json,
        )
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        self._check_reader()
        readable = sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings})
        if "overwrite_image_reader_writer" not in self.dataset_json and self.file_ending.lower() not in readable:
            raise UserError(
                f"{self.folder / 'dataset.json'}: 'file_ending' is '{self.file_ending}'; nnU-Net reads {', '.join(readable)}. "
                "Convert the images and labels, or correct the key."
            )
        case, (example, *_) = next(iter(self.labeled.items()))
        if problem := damaged_file(case, [example]):
            raise UserError(problem)
        tried = io.StringIO()  # nnU-Net prints a traceback for every reader that cannot read the file
        try:
            with contextlib.redirect_stderr(tried):
                found = determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)
        except RuntimeError as error:
            reasons = [
                line for line in tried.getvalue().splitlines() if line and not line.startswith((" ", "Traceback"))
            ]
            reason = reasons[0] if reasons else str(error)
            raise UserError(
                f"{example} cannot be read by any of nnU-Net's readers for '{self.file_ending}' ({reason}): the file is damaged, "
                f"or 'file_ending' in {self.folder / 'dataset.json'} is wrong. Restore the file, or correct the key."
            ) from error
        if found is SimpleITKIO and self.file_ending != self.file_ending.lower():
            raise UserError(
                f"{self.folder / 'dataset.json'}: 'file_ending' is '{self.file_ending}', which SimpleITK reads, but does not write "
                f"under this name, so that label maps and nnU-Net's predictions would be lost. Rename the files to "
                f"{self.file_ending.lower()}, and correct the key."
            )
        return found

    def _check_reader(self) -> None:
        """UserError for a reader that nnU-Net does not have, which it would pass over."""
        import nnunetv2
        from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        key = "overwrite_image_reader_writer"
        name = self.dataset_json.get(key, "None")
        known = name == "None" or (
            isinstance(name, str)
            and recursive_find_python_class(str(Path(nnunetv2.__path__[0], "imageio")), name, "nnunetv2.imageio")
        )
        allowed = f"a reader of nnU-Net, {', '.join(reader.__name__ for reader in LIST_OF_IO_CLASSES)}"
        expect(bool(known), self.folder / "dataset.json", key, name, allowed, "Correct it, or remove the key.")


# ------------------------------------------------------------------------------------------------------- what `open` lists


def load_dataset_json(file: Path, missing: str = "`nnunet_ssl convert` writes it; nnU-Net describes it.") -> dict:
    """The content of a dataset.json, of raw data or of a trained model, with the labels as numbers.

    Args:
        missing: what to say where there is none.

    Raises:
        UserError: as `read_json`; a key is missing or holds something else than nnU-Net takes.
    """
    content = read_json(file, missing=missing)
    for key, alternative in (("file_ending", None), ("labels", None), ("channel_names", "modality")):
        if key not in content and alternative not in content:
            raise UserError(f"{file} lacks the key '{key}'; nnU-Net needs it. Add it.")
    ending = content["file_ending"]
    expect(
        isinstance(ending, str) and len(ending) > 1 and ending[0] == ".",
        file,
        "file_ending",
        ending,
        'a text such as ".nii.gz"',
    )
    key = "channel_names" if "channel_names" in content else "modality"
    names = content[key]
    numbered = isinstance(names, dict) and list(names) == [str(i) for i in range(len(names))] and len(names) > 0
    named = numbered and all(isinstance(name, str) for name in names.values())
    expect(named, file, key, names, 'an object that names each channel, {"0": "CT"}, in the order of their numbers')
    if "numTraining" in content:
        found = content["numTraining"]
        expect(isinstance(found, int) and not isinstance(found, bool), file, "numTraining", found, "a whole number")
    for case, entry in (_listed_cases(file, content["dataset"]) if "dataset" in content else {}).items():
        fine = isinstance(entry, dict) and isinstance(entry.get("label"), str) and isinstance(entry.get("images"), list)
        fine = fine and entry["images"] and all(isinstance(image, str) for image in entry["images"])
        allowed = 'an object with "images", a list of files, and "label", a file'
        expect(fine, file, f"dataset.{case}", entry, allowed)
    return {**content, "labels": label_values(content, file)}


def _listed_cases(file: Path, cases: object) -> dict:
    expect(isinstance(cases, dict) and bool(cases), file, "dataset", cases, "an object with an entry for each case")
    check_case_ids(cases, f"{file}, key 'dataset'")  # type: ignore[arg-type]
    return cases  # type: ignore[return-value]


def _list_images(folder: Path, ending: str) -> dict[str, list[str]]:
    """Case -> its channel files, both sorted. A folder that does not exist holds no cases."""
    cases = channels_of_cases(folder, ending)
    refuse_other_endings(folder, "CASE_XXXX", [ending])
    return cases


def _list_labels(folder: Path, ending: str) -> dict[str, str]:
    """Name -> file of the label maps in a folder, which need not be there."""
    refuse_other_endings(folder, "CASE", [ending])
    return {name: str(file) for name, file in files_with_ending(folder, ending).items()}


def _check_pairs(folder: Path, labeled: Mapping[str, object], dataset_json: dict) -> None:
    """UserError where imagesTr and labelsTr do not belong together, or dataset.json counts other cases: one may have been lost."""
    ending = dataset_json["file_ending"]
    for part in (FOLDERS["labeled"], "labelsTr"):
        refuse_hidden_files(folder / part, ending)
    without = sorted(set(_list_labels(folder / "labelsTr", ending)) - set(labeled))
    if without:
        raise UserError(
            f"{folder / 'labelsTr' / f'{without[0]}{ending}'}: {len(without)} label(s) have no image in imagesTr: "
            f"{some(without, 5)}. Restore the images, or take the labels away."
        )
    counted = dataset_json.get("numTraining", len(labeled))
    if counted != len(labeled):
        raise UserError(
            f"{folder / 'dataset.json'}: key 'numTraining' is {excerpt(counted)}, imagesTr holds {len(labeled)} cases. Restore "
            "what is missing, or correct the number."
        )


def _check_listed(
    file: Path, cases: Mapping[str, Sequence[str]], labels: Mapping[str, str], number: int, ending: str
) -> None:
    """Files under the key `dataset`."""
    for case, files in cases.items():
        if not labels[case].endswith(ending):
            raise UserError(
                f"{file}: dataset.{case}.label is {labels[case]}; 'file_ending' is {ending}, and nnU-Net copies the file to "
                f"{case}{ending} as it is, which could not be read. Convert it."
            )
        if len(files) != number:
            raise UserError(f"{file}: dataset.{case} has {len(files)} image(s), other cases have {number}. Correct it.")
        for image in files:
            if not Path(image).is_file():
                raise UserError(
                    f"{image} does not exist; {file} names it as an image of {case}. Restore it, or correct the key."
                )


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


# ---------------------------------------------------------------------------------------------------------------- reading


def read_case(case: str, image_files: Sequence[str], reader_writer_class: type) -> tuple[np.ndarray, dict]:
    """Image `(C, *spatial)` and properties of a case, as nnU-Net's reader returns them.

    Raises:
        UserError: a file is damaged, or the channels do not fit together; names the case and the file.
    """
    problem = damaged_file(case, image_files)
    if problem is None:
        try:
            images, properties = reader_writer_class().read_images([str(file) for file in image_files])
        except Exception as error:  # readers of five libraries raise whatever they like on a damaged file
            problem = explain_reading_error(case, image_files, reader_writer_class)
            problem = problem or f"case {case} ({', '.join(image_files)}): {type(error).__name__}: {error}"
        else:
            if np.isfinite(images).all():
                return images, properties
            problem = f"case {case}: {', '.join(image_files)} {NOT_FINITE.what}. {NOT_FINITE.remedy}"
    raise UserError(problem)


def check_same_grid(case: str, image: str, label: str, reader_writer_class: type) -> None:
    """UserError where an image and its label map do not lie on each other, by their headers."""
    one, other = (read_grid(file, reader_writer_class) for file in (label, image))
    if one is not None and other is not None and (difference := one.difference(other)) is not None:
        raise UserError(
            f"case {case}: {label} has the {difference} ({image}). They must lie on each other: correct one."
        )


def read_label_map(case: str, file: str, reader_writer_class: type) -> tuple[np.ndarray, dict]:
    """Label map `(1, *spatial)` and properties, as nnU-Net's reader returns them. UserError names a file that is damaged."""
    problem = damaged_file(case, [file])
    if problem is not None:
        raise UserError(problem)
    try:
        labels, properties = reader_writer_class().read_seg(str(file))
    except Exception as error:  # see read_case
        problem = explain_reading_error(case, [file], reader_writer_class)
        raise UserError(problem or f"case {case}: {file} cannot be read ({error}). Restore it.") from error
    if labels.shape[0] != 1:
        raise UserError(
            f"case {case}: {file} has more axes than a volume, or several channels {labels.shape}; a label map has one number per "
            "voxel. Correct it."
        )
    if not (np.isfinite(labels) & (labels >= 0) & (labels == np.round(labels))).all():
        raise UserError(
            f"case {case}: {file} holds numbers that are no labels; allowed are whole numbers from 0. Correct it."
        )
    return labels, properties
