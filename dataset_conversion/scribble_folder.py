"""A folder of images and a folder of sparse label maps (scribbles, points, ...), as anyone may have them.

Images `CASE.nii.gz`, or `CASE_0000.nii.gz` with one file per channel as in nnU-Net; labels `CASE<suffix>.nii.gz`. One code of the
label maps means "not annotated". It is given and never guessed, since 0, 255 and (number of classes) are all in use, and a
wrong one turns everything that nobody looked at into background.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.data.listing import refuse_other_endings
from nnunet_ssl.dataset_conversion.case_lists import read_split
from nnunet_ssl.dataset_conversion.common import Case, DatasetDescription, add_common_arguments
from nnunet_ssl.dataset_conversion.reading import list_folder, read_image
from nnunet_ssl.dataset_conversion.sparse_labels import assign_by_patient
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError, some

DESCRIPTION = (
    "A folder of images and a folder of sparse label maps (scribbles, points, slices): codes of classes and one code for what is\n"
    "not annotated, which becomes nnU-Net's ignore label.\n\n"
    "Images are CASE.nii.gz, or CASE_0000.nii.gz with one file per channel; .nii, .nrrd, .mha and .mhd are read too. Labels have\n"
    "the name of the case, with or without _0000, and the suffix given. Training images without label become unlabeled images\n"
    "if images and labels lie in different folders. Without lists (--split) all cases of -i are for training, and fold 0\n"
    "validates on the labeled ones; test cases come from --test_images or a list."
)
EXAMPLE = (
    "example:\n"
    "  nnunet_ssl convert scribbles -i images -l scribbles -d 128 -name Prostate --unlabeled_value 255 \\\n"
    "      --labels background=0 transition=1 peripheral=2 --dense masks --test_images test --test_labels test_masks"
)

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, default_id=None, default_name="Scribbles")
    parser.add_argument(
        "-l", dest="label_folder", type=Path, required=True, metavar="FOLDER", help="folder of the sparse labels"
    )
    parser.add_argument(
        "--unlabeled_value",
        type=int,
        required=True,
        metavar="V",
        help="code that marks voxels without annotation in the label files, such as 255 or 4",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        required=True,
        metavar="NAME=CODE",
        help="classes and their codes in the files, in the order that they get in nnU-Net: liver=1 tumor=2. The background is "
        "background=0 unless it is named too; it must be where V is 0",
    )
    parser.add_argument(
        "--label_suffix",
        default="",
        metavar="TEXT",
        help="[OPTIONAL] what follows the case in the names of sparse labels, such as _scribble. Default: nothing",
    )
    parser.add_argument(
        "--dense",
        type=Path,
        metavar="DIR",
        help="[OPTIONAL] folder with dense masks of cases of -i, with the same codes; for validation only (labelsTr_dense), and "
        "for test cases that a list names",
    )
    parser.add_argument(
        "--dense_suffix", default="", metavar="TEXT", help="[OPTIONAL] the same for dense masks. Default: nothing"
    )
    parser.add_argument("--test_images", type=Path, metavar="DIR", help="[OPTIONAL] folder with images of test cases")
    parser.add_argument(
        "--test_labels", type=Path, metavar="DIR", help="[OPTIONAL] folder with their dense masks (see --dense_suffix)"
    )
    parser.add_argument(
        "--channel_names",
        nargs="+",
        default=["image"],
        metavar="NAME",
        help="[OPTIONAL] one name per channel. nnU-Net chooses the normalization by it: CT for computed tomography, any other name "
        "for z-scores. Default: image",
    )
    parser.add_argument(
        "--patient_pattern",
        metavar="REGEX",
        help=r"[OPTIONAL] regular expression whose first group, at the start of a case, is the patient: '(patient\d+)_'. Lists and "
        "--labeled then count patients, and no split cuts one apart. Default: every case is a patient",
    )


def run(args: argparse.Namespace) -> None:
    if args.dense_suffix and args.dense is None and args.test_labels is None:
        raise UserError(
            f"--dense_suffix {args.dense_suffix} belongs to --dense or --test_labels, and none is given. Give one, or leave it out."
        )
    labels, codes = parse_labels(args.labels, args.unlabeled_value)
    ignore = len(labels)
    cases = find_cases(args)
    test_cases = find_test_cases(args, cases)
    to_patient = patient_finder(args.patient_pattern)
    if args.split:
        lists = read_split(args.split)
        origin = f"a list ({lists.origin})"
        parts = [
            list(dict.fromkeys(map(to_patient, part or []))) for part in (lists.train, lists.validation, lists.test)
        ]
    else:
        origin = "the input"
        parts = [list(dict.fromkeys(case.patient for case in cases)), [], []]
    train, validation, test = parts
    test += list(dict.fromkeys(case.patient for case in test_cases))
    assignment = assign_by_patient(
        [*cases, *test_cases],
        train,
        validation,
        test,
        args.labeled,
        args.seed,
        origin,
        f"CASE{args.label_suffix}.nii.gz in {args.label_folder}",
        to_patient,
        # a mask with a suffix that nobody named would pass for an unlabeled image
        unlabeled_allowed=args.input.absolute() != args.label_folder.absolute(),
    )
    dataset = DatasetDescription(
        dataset_id=args.dataset_id,
        name=args.name,
        channel_names={str(number): name for number, name in enumerate(args.channel_names)},
        labels=labels | {"ignore": ignore},
        label_codes=(codes | {args.unlabeled_value: ignore},),
        dense_label_codes=(codes,),
        options={"converter": "scribbles", "scribbles": args.label_folder.absolute().name},
    )
    write_dataset(dataset, [*cases, *test_cases], assignment, read_case, args.np, args.overwrite, read_mask)


def parse_labels(entries: Sequence[str], unlabeled_value: int) -> tuple[dict[str, int], dict[int, int]]:
    """Labels of dataset.json without `ignore`, and code in the file -> label.

    Raises:
        UserError: an entry that is not NAME=CODE, a name or code twice, no class, `ignore` as a name, a code that is the
            unlabeled value, or an unlabeled value 0 without a code for the background.
    """
    given: dict[str, int] = {}
    for entry in entries:
        match = re.fullmatch(r"([^=]+)=(-?\d+)", entry)
        if match is None:
            raise UserError(f"--labels {entry}: expected NAME=CODE with an integer code, such as liver=1.")
        name, code = match[1], int(match[2])
        if name == "ignore":
            raise UserError("--labels ignore: nnU-Net's ignore label is made from --unlabeled_value. Leave it out.")
        if name in given or code in given.values():
            raise UserError(
                f"--labels {entry}: the name or the code occurs twice. Every class has one name and one code."
            )
        given[name] = code
    if "background" not in given:
        if 0 in (unlabeled_value, *given.values()):
            raise UserError(
                f"--labels {' '.join(entries)}, --unlabeled_value {unlabeled_value}: 0 is taken, so which code is the background? "
                "Name it, for example background=3; a code that never occurs where no background is annotated."
            )
        given = {"background": 0, **given}
    if unlabeled_value in given.values():
        raise UserError(
            f"--unlabeled_value {unlabeled_value} is also the code of a class in --labels. One code cannot mean both."
        )
    names = ["background", *(name for name in given if name != "background")]
    if len(names) < 2:
        raise UserError("--labels names no class beside the background. Give at least one, such as liver=1.")
    return {name: number for number, name in enumerate(names)}, {given[name]: n for n, name in enumerate(names)}


def find_cases(args: argparse.Namespace) -> list[Case]:
    """The cases of -i with sparse label and dense mask. UserError: see `list_images` and `list_labels`."""
    to_patient = patient_finder(args.patient_pattern)
    folders = [(args.label_folder, args.label_suffix), (args.dense, args.dense_suffix)]
    images = list_images(args.input, folders, len(args.channel_names))
    labels = list_labels(args.label_folder, args.label_suffix, folders, images, args.input)
    if not labels:
        raise UserError(
            f"{args.label_folder} holds no label CASE{args.label_suffix}.nii.gz of the {len(images)} cases of {args.input}, such "
            f"as {some(images, 3)}. Check -l and --label_suffix."
        )
    dense = list_labels(args.dense, args.dense_suffix, folders, images, args.input) if args.dense else {}
    return [
        Case(case, to_patient(case), files, labels.get(case), files[0].name, dense.get(case))
        for case, files in images.items()
    ]


def find_test_cases(args: argparse.Namespace, cases: Sequence[Case]) -> list[Case]:
    if args.test_images is None:
        if args.test_labels is not None:
            raise UserError("--test_labels without --test_images: give the folder of the images too, or leave it out.")
        return []
    folders = [(args.test_labels, args.dense_suffix)]
    images = list_images(args.test_images, folders, len(args.channel_names))
    masks = (
        list_labels(args.test_labels, args.dense_suffix, folders, images, args.test_images) if args.test_labels else {}
    )
    if both := sorted(set(images) & {case.case_id for case in cases}):
        raise UserError(
            f"{some(both)} lie(s) in {args.input} and in {args.test_images}. A test case must not be trained on."
        )
    to_patient = patient_finder(args.patient_pattern)
    return [
        Case(case, to_patient(case), files, None, f"{args.test_images.name}/{files[0].name}", masks.get(case))
        for case, files in images.items()
    ]


def patient_finder(pattern: str | None) -> Callable[[str], str]:
    """case id (or entry of a list) -> patient. UserError for a pattern that is none or does not match a case."""
    if pattern is None:
        return str
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient_pattern {pattern}: no regular expression ({error}).") from error
    if compiled.groups < 1:
        raise UserError(rf"--patient_pattern {pattern}: needs a group for the patient, such as '(patient\d+)_'.")

    def patient(case: str) -> str:
        match = compiled.match(case)
        if match is None or not match[1]:
            raise UserError(
                f"--patient_pattern {pattern} finds no patient in '{case}'. Correct it, or rename the case."
            )
        return match[1]

    return patient


def stem(path: Path) -> str | None:
    """Name without the ending; None for a file that is no image."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), None)


def list_images(
    folder: Path, label_folders: Sequence[tuple[Path | None, str]], channels: int
) -> dict[str, tuple[Path, ...]]:
    """Case -> its channel files. Labels that lie in the same folder are told by their suffix.

    Raises:
        UserError: no image, a case twice, labels in the folder that have no suffix, other channels than there are names, an image
            with another ending.
    """
    suffixes = [
        suffix for place, suffix in label_folders if place is not None and place.absolute() == folder.absolute()
    ]
    if "" in suffixes:
        raise UserError(
            f"{folder} holds images and labels. Say how the names of the labels end: --label_suffix, --dense_suffix."
        )
    refuse_other_endings(folder, "CASE", ENDINGS)
    files = [
        path for path in list_folder(folder) if (name := stem(path)) is not None and not name.endswith(tuple(suffixes))
    ]
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files:
        name = stem(path)
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        case, channel = (match[1], match[2]) if match else (name, "0000")
        if channel in found[case]:
            raise UserError(
                f"case {case} occurs twice: {found[case][channel]} and {path}. Remove or rename one of them."
            )
        found[case][channel] = path
    if not found:
        raise UserError(f"{folder} holds no image ({', '.join(ENDINGS)}). Check the folder.")
    expected = [f"{number:04d}" for number in range(channels)]
    for case, by_channel in found.items():
        if sorted(by_channel) != expected:
            raise UserError(
                f"case {case} of {folder} has the channel(s) {some(sorted(by_channel))}, expected are {some(expected)}: a name "
                "that ends in four digits means a channel, as in nnU-Net. Complete the case, give one --channel_names per channel, "
                "or rename files that are cases of their own."
            )
    return {case: tuple(found[case][channel] for channel in expected) for case in sorted(found)}


def list_labels(
    folder: Path,
    suffix: str,
    label_folders: Sequence[tuple[Path | None, str]],
    images: dict[str, tuple[Path, ...]],
    image_folder: Path,
) -> dict[str, Path]:
    """Case -> its label, for the files of `folder` that end in `suffix`.

    Raises:
        UserError: a label without image or with another ending, or two labels of a case.
    """
    # files that lie here for another reason: images, and labels with a suffix of their own
    others = [other for place, other in label_folders if place is not None and place.absolute() == folder.absolute()]
    others = tuple(other for other in others if other != suffix and len(other) > len(suffix))
    is_image_folder = folder.absolute() == image_folder.absolute()
    labels: dict[str, Path] = {}
    refuse_other_endings(folder, f"CASE{suffix}", ENDINGS)
    for path in list_folder(folder):
        name = stem(path)
        if name is None or not name.endswith(suffix) or (others and name.endswith(others)):
            continue
        if is_image_folder and any(path in files for files in images.values()):
            continue
        name = name.removesuffix(suffix) if suffix else name
        case = name if name in images else re.sub(r"_0000$", "", name)
        if case not in images:
            raise UserError(
                f"{path} is a label without an image: {image_folder} has no case {case}, but {some(images, 3)}. Add the image, "
                "correct the suffix, or remove the label."
            )
        if case in labels:
            raise UserError(f"case {case} has two labels: {labels[case]} and {path}. Remove one of them.")
        labels[case] = path
    return labels


def read_case(case: Case) -> tuple[list[sitk.Image], sitk.Image | None]:
    return [read_image(path) for path in case.images], read_image(case.label) if case.label else None


def read_mask(case: Case) -> sitk.Image:
    return read_image(case.dense)
