"""`unlabeled.json`: which images of a data set are unlabeled, labeled and test cases, and what they contain.

The file lies in the raw data set (written by the converters, or by `nnunet_ssl preprocess_unlabeled` for folders made
by hand) and, as the copy that training reads, in `nnUNet_preprocessed/DatasetXXX_Name`. Every case has a hash of its
voxels, so that an image that appears twice under different names is recognized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_ssl.data import json_files
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.names import check_case_ids
from nnunet_ssl.data.ownership import write_recorded_json

FILE_NAME = "unlabeled.json"
FORMAT = 1
SECTIONS = ("unlabeled", "labeled", "test")
_REMEDY = "Delete the file and run `nnunet_ssl preprocess_unlabeled` again to have it made anew from the images."
_KEYS = ("format", *SECTIONS, "groups", "hidden_labels")


def content_hash(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of the voxels of one case, independent of header, spacing, data type and compression.

    Args:
        arrays: one array `(*spatial)` per channel, axes as nnU-Net's reader returns them (z, y, x for SimpleITK; a 2D
            image has shape (1, y, x)). An array `(C, *spatial)` is such a sequence. Per channel, the shape as text and
            the voxels as C-contiguous little-endian float32 enter the hash.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(tuple(int(size) for size in array.shape)).encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def hash_case(image_files: Sequence[str | Path], reader_writer_class: type | None = None) -> str:
    """`content_hash` of the channel files of one case, read with nnU-Net's reader (`SimpleITKIO` by default)."""
    if reader_writer_class is None:
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        reader_writer_class = SimpleITKIO
    images, _ = reader_writer_class().read_images([str(file) for file in image_files])
    return content_hash(images)


@dataclass
class CaseRecord:
    """Where a case came from (relative to the folder that was converted) and the hash of its voxels."""

    source: str
    sha256: str


@dataclass
class UnlabeledList:
    """Content of `unlabeled.json`.

    `unlabeled` are the cases of `imagesUn`, `labeled` those of `imagesTr`, `test` those of `imagesTs`. `groups` gives
    the patient of a case; a case that is not named there is a patient of its own. `hidden_labels` gives, per fold, the
    cases of `imagesTr` that training must treat as unlabeled (`nnunet_ssl split`).
    """

    unlabeled: dict[str, CaseRecord] = field(default_factory=dict)
    labeled: dict[str, CaseRecord] = field(default_factory=dict)
    test: dict[str, CaseRecord] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    hidden_labels: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> UnlabeledList:
        """Read and check the file. UserError names the file and the key that is missing or malformed."""
        path = Path(path)
        missing = f"`nnunet_ssl preprocess_unlabeled -d {path.parent.name}` writes it."
        content = read_json(path, remedy=_REMEDY, missing=missing)

        def expect(condition: bool, key: str, found: object, allowed: str) -> None:
            json_files.expect(condition, path, key, found, allowed, _REMEDY)

        expect(content.get("format") == FORMAT, "format", content.get("format"), f"the number {FORMAT}")
        for key in content:
            # a misspelled `groups` would otherwise silently put one patient on both sides of a split
            expect(key in _KEYS, key, "unknown", f"one of {', '.join(_KEYS)}")

        sections = {}
        for section in SECTIONS:
            cases = content.get(section, {})
            expect(isinstance(cases, dict), section, cases, "an object of case ids")
            for case, record in cases.items():
                expect(
                    isinstance(record, dict) and all(isinstance(record.get(k), str) for k in ("source", "sha256")),
                    f"{section}.{case}",
                    record,
                    'an object with the texts "source" and "sha256"',
                )
            check_case_ids(cases, f"{path}, key '{section}'")
            sections[section] = {case: CaseRecord(r["source"], r["sha256"]) for case, r in cases.items()}

        groups = _groups_in(content, path, _REMEDY)

        hidden = content.get("hidden_labels", {})
        expect(isinstance(hidden, dict), "hidden_labels", hidden, "an object of folds")
        for fold, cases in hidden.items():
            expect(
                isinstance(cases, list) and all(isinstance(case, str) for case in cases),
                f"hidden_labels.{fold}",
                cases,
                "a list of case ids",
            )
        return cls(**sections, groups=groups, hidden_labels={fold: list(c) for fold, c in hidden.items()})

    def save(self, path: str | Path) -> None:
        """Write the file atomically, keys sorted. Empty `groups` and `hidden_labels` are left out."""
        content: dict = {"format": FORMAT}
        for section in SECTIONS:
            records = getattr(self, section)
            content[section] = {c: {"source": r.source, "sha256": r.sha256} for c, r in records.items()}
        if self.groups:
            content["groups"] = self.groups
        if self.hidden_labels:
            content["hidden_labels"] = {str(fold): sorted(cases) for fold, cases in self.hidden_labels.items()}
        write_recorded_json(content, Path(path))

    def patient(self, case: str) -> str:
        """The patient of a case: its group, or the case itself where no group is given."""
        return self.groups.get(case, case)

    def unlabeled_cases(self, fold: int | str) -> list[str]:
        """What training on `fold` uses without labels: `imagesUn` and the hidden labels of this fold, sorted."""
        return sorted({*self.unlabeled, *self.hidden_labels.get(str(fold), [])})


def known_groups(*folders: str | Path) -> dict[str, str]:
    """Case -> patient, by the key `groups` of dataset.json and of unlabeled.json in the folders of one data set.

    Of several files of one name the last wins. A case that nobody names is a patient of its own.

    Raises:
        UserError: a file that cannot be read, a malformed key, or a case whose patient is another one in unlabeled.json than in
            dataset.json.
    """
    found: dict[str, tuple[str, Path]] = {}
    for name, read in (("dataset.json", _groups_of_dataset), (FILE_NAME, lambda file: UnlabeledList.load(file).groups)):
        of_name: dict[str, tuple[str, Path]] = {}
        for file in (Path(folder) / name for folder in folders):
            if file.is_file():
                of_name |= {case: (patient, file) for case, patient in read(file).items()}
        for case, (patient, file) in of_name.items():
            expected, other = found.get(case, (patient, file))
            remedy = f'{other} says "{expected}": correct the one that is wrong.'
            json_files.expect(patient == expected, file, f"groups.{case}", patient, "one patient for each case", remedy)
        found |= of_name
    return {case: patient for case, (patient, _) in found.items()}


def _groups_of_dataset(file: Path) -> dict[str, str]:
    return _groups_in(read_json(file), file, "Correct it, or give the key another name.")


def _groups_in(content: dict, file: Path, remedy: str) -> dict[str, str]:
    groups = content.get("groups", {})
    json_files.expect(
        isinstance(groups, dict), file, "groups", groups, "an object that gives each case its patient", remedy
    )
    for case, patient in groups.items():
        json_files.expect(isinstance(patient, str), file, f"groups.{case}", patient, "the name of a patient", remedy)
    return dict(groups)
