"""MSCMR: late gadolinium enhanced cardiac MRI with scribbles (Zhuang, IEEE TPAMI 2019; Zhang & Zhuang, CVPR 2022, CycleMix).

Read are the folders of BWGZK/CycleMix:

* `MSCMR_dataset/{train,val,TestSet}/images/subjectN_DE.nii.gz`, 25, 5 and 15 subjects, and beside them
  `labels/subjectN_DE_scribble.nii.gz` for training, `labels/subjectN_DE_manual.nii.gz` for validation and test;
* `MSCMR_scribbles/subjectN_DE_scribble.nii.gz`, the scribbles alone (some unpackings make a folder of that name that holds the
  file).

Codes 0 background, 1 right ventricle, 2 left-ventricle myocardium, 3 left-ventricle cavity; in scribbles 4 = not annotated. Masks
of the training subjects are not part of the release. One mask of the release, `subject43_DE_manual.nii.gz`, has lost its
position (origin 0, axes parallel to the scanner's); laid on the voxels of the image it fits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.files import file_hash
from nnunet_ssl.dataset_conversion.case_lists import read_split
from nnunet_ssl.dataset_conversion.common import Case, DatasetDescription, add_common_arguments
from nnunet_ssl.dataset_conversion.reading import Geometry, read_geometry, read_image, require_file, walk
from nnunet_ssl.dataset_conversion.sparse_labels import assign_by_patient
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError, some

DESCRIPTION = (
    "MSCMR (cardiac LGE-MRI) with the scribbles of CycleMix: MSCMR_dataset/{train,val,TestSet}/{images,labels} and\n"
    "MSCMR_scribbles.\n\n"
    "labelsTr holds the scribbles (4 = not annotated = ignore) of the training subjects and the masks of the validation subjects,\n"
    "who have no scribbles; these masks are also in labelsTr_dense. Lists: those given with --split (entries are subjects), else\n"
    "the folders train, val and TestSet. --labeled counts subjects, in the order of their numbers; the others become unlabeled\n"
    "images. Fold 0 trains on the labeled subjects and validates on the validation subjects."
)
EXAMPLE = (
    "example:\n"
    "  nnunet_ssl convert MSCMR -i CycleMix/MSCMR_dataset -d 145\n"
    "  nnunet_ssl convert MSCMR -i MSCMR_dataset -d 146 -name MSCMR5 --scribbles MSCMR_scribbles --labeled 5"
)

IMAGE_NAME = re.compile(r"(subject\d+)_DE\.nii(?:\.gz)?")
LABEL_NAME = re.compile(r"(subject\d+)_DE_(scribble|manual)\.nii(?:\.gz)?")
PARTS = {"train": "train", "val": "val", "testset": "test"}  # names of folders, in lower case
CODES = {0: 0, 1: 1, 2: 2, 3: 3}
NOT_ANNOTATED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, default_id=145, default_name="MSCMR")
    parser.add_argument(
        "--scribbles",
        type=Path,
        metavar="DIR",
        help="[OPTIONAL] folder with subjectN_DE_scribble.nii.gz, such as MSCMR_scribbles, where they do not lie below -i",
    )


def run(args: argparse.Namespace) -> None:
    cases, parts = find_cases(args.input, args.scribbles)
    if args.split:
        lists = read_split(args.split)
        origin = f"a list ({lists.origin})"
        parts = {
            part: [subject_of(entry) for entry in entries or []]
            for part, entries in (("train", lists.train), ("val", lists.validation), ("test", lists.test))
        }
    else:
        origin = f"a folder of {args.input}"
        print(
            f"Using the folders: {len(parts['train'])} of 25 training, {len(parts['val'])} of 5 validation and "
            f"{len(parts['test'])} of 15 test subjects are present."
        )
    assignment = assign_by_patient(
        cases,
        parts["train"],
        parts["val"],
        parts["test"],
        args.labeled,
        args.seed,
        origin,
        "subjectN_DE_scribble.nii.gz",
        subject_of,
    )
    blank = blank_headers(cases)
    if blank:
        print(
            f"Warning: {len(blank)} label(s) have lost their position (origin 0, no rotation), with the shape and spacing of the "
            f"image; the position of the image is used: {some(sorted(path.name for path in blank))}."
        )
    dataset = DatasetDescription(
        dataset_id=args.dataset_id,
        name=args.name,
        channel_names={"0": "LGE-MRI"},
        labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3, "ignore": NOT_ANNOTATED},
        label_codes=(CODES | {NOT_ANNOTATED: NOT_ANNOTATED},),
        dense_label_codes=(CODES,),
        description="Right ventricle, left-ventricle myocardium and cavity in LGE cardiac MRI, scribbles",
        reference="MSCMRseg challenge, Zhuang, IEEE TPAMI 41, 2019; scribbles: Zhang & Zhuang, CVPR 2022",
        license="see the MSCMRseg challenge",
        options={
            "converter": "MSCMR",
            "scribbles": args.scribbles.absolute().name if args.scribbles else "of the input",
        },
    )
    write_dataset(
        dataset,
        cases,
        assignment,
        partial(read_case, blank=blank),
        args.np,
        args.overwrite,
        partial(read_mask, blank=blank),
    )


def find_cases(folder: Path, scribbles: Path | None) -> tuple[list[Case], dict[str, list[str]]]:
    """Cases in the order of their numbers, and the subjects of the folders train, val and TestSet.

    Raises:
        UserError: no image; an image outside of these folders or twice; a label without image; two different labels of a
            kind for one subject (the release has the same scribbles in two places).
    """
    images: dict[str, Path] = {}
    part_of: dict[str, str] = {}
    labels: dict[tuple[str, str], Path] = {}
    for place in (folder, *((scribbles,) if scribbles else ())):
        for root, _, files in walk(place):
            for name in files:
                path = root / name
                if match := LABEL_NAME.fullmatch(name):
                    first = labels.setdefault((match[1], match[2]), path)
                    require_file(path)
                    if first != path and file_hash(first) != file_hash(path):
                        raise UserError(f"{first} and {path} differ, but are the same label. Remove one of them.")
                elif (match := IMAGE_NAME.fullmatch(name)) and place == folder:
                    if match[1] in images:
                        raise UserError(f"{name} occurs twice: {images[match[1]]} and {path}. Remove one of them.")
                    images[match[1]] = path
                    part_of[match[1]] = _part_of(path, folder)
    if not images:
        raise UserError(
            f"{folder}: no image found. Expected are {{train,val,TestSet}}/images/subjectN_DE.nii.gz, at any depth. Check -i."
        )
    for (subject, _), path in labels.items():
        if subject not in images:
            raise UserError(
                f"{path} is a label without an image: {subject}_DE.nii.gz is missing. Add it or remove the label."
            )
    subjects = sorted(images, key=lambda subject: int(subject.removeprefix("subject")))
    cases = [
        Case(
            subject,
            subject,
            (images[subject],),
            labels.get((subject, "scribble")),
            str(images[subject].relative_to(folder)),
            labels.get((subject, "manual")),
        )
        for subject in subjects
    ]
    parts = {part: [subject for subject in subjects if part_of[subject] == part] for part in PARTS.values()}
    return cases, parts


def _part_of(image: Path, folder: Path) -> str:
    """train, val or test, by the nearest folder above the image with such a name."""
    for name in reversed(image.absolute().parts[:-1]):
        if name.lower() in PARTS:
            return PARTS[name.lower()]
    raise UserError(
        f"{image} lies in none of the folders train, val and TestSet. Give -i the folder MSCMR_dataset as released."
    )


def subject_of(entry: str) -> str:
    """Subject of a list entry such as subject13 or subject13_DE. UserError if it is none."""
    match = re.match(r"subject\d+", entry)
    if match is None:
        raise UserError(
            f"a list names '{entry}'; expected are entries like subject13 or subject13_DE. Correct the list."
        )
    return match[0]


def blank_headers(cases: list[Case]) -> frozenset[Path]:
    """Labels without position whose shape and spacing are the image's; of any other difference the conversion complains."""
    found = set()
    for case in cases:
        for path in filter(None, (case.label, case.dense)):
            image, label = read_geometry(case.images[0]), read_geometry(path)
            same_grid = label.size == image.size and np.allclose(label.spacing, image.spacing)
            if same_grid and _has_no_position(label) and not _has_no_position(image):
                found.add(path)
    return frozenset(found)


def _has_no_position(geometry: Geometry) -> bool:
    """Whether a header says what an empty one says: the identity, in NIfTI's axes (x to the right, y to the front) or ITK's."""
    identities = (np.diag([-1, -1, 1]), np.eye(3))
    return not any(geometry.origin) and any(np.array_equal(geometry.direction, one.ravel()) for one in identities)


def read_case(case: Case, blank: Collection[Path]) -> tuple[list[sitk.Image], sitk.Image | None]:
    return [read_image(case.images[0])], _read_label(case, case.label, blank) if case.label else None


def read_mask(case: Case, blank: Collection[Path]) -> sitk.Image:
    return _read_label(case, case.dense, blank)


def _read_label(case: Case, path: Path, blank: Collection[Path]) -> sitk.Image:
    label = read_image(path)
    if path in blank:
        read_geometry(case.images[0]).apply(label, path)
    return label
