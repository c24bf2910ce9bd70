"""LA: left atrium in late gadolinium enhanced MRI, Atrial Segmentation Challenge 2018 (Xiong et al., MedIA 2021).

Two forms are read:

* the challenge's archive: `<wrapper>/<ID>/{lgemri,laendo}.nrrd`, mask 0/255 (or 0/1), wrapper folders such as `Training Set`
  and `Testing Set` or none. Its headers say spacing 1, origin 0; the published voxel size is 0.625 mm isotropic.
* the h5 re-release of UA-MT and its successors: `<ID>/mri_norm2.h5` with `image` (z-scored, cropped in x and y) and `label`,
  both (x, y, z), without spacing.

The protocol of the semi-supervised literature: 80 training and 20 test cases of the 100 training cases of the challenge, the
first 4, 8 or 16 of the train list labeled, no validation list. The challenge's 154 scans come from 60 patients, but no key of
patients was released, so every case counts as a patient of its own.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.texts import check_voxel_size
from nnunet_ssl.dataset_conversion.case_lists import (
    SplitLists,
    check_known,
    choose_labeled,
    find_list,
    read_list,
    read_split,
    shipped_list,
)
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription, add_common_arguments
from nnunet_ssl.dataset_conversion.reading import read_h5, read_header, read_image, walk
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError, some

DESCRIPTION = (
    "LA (left atrium, LGE-MRI, Atrial Segmentation Challenge 2018) in the challenge's NRRD form or the h5 form of UA-MT.\n\n"
    "Lists: those given with --split; else train.list and test.list (or .txt) in the input folder, its wrapper folders or\n"
    "beside it; else the 80 training and 20 test cases of the literature, as far as they are present. Cases of no list, such\n"
    "as the challenge's Testing Set, are left out (see --testing_as_unlabeled). There is no validation list: fold 0 trains on\n"
    "all labeled cases and validates on the same; methods are compared on the test cases."
)
EXAMPLE = (
    "example:\n"
    "  nnunet_ssl convert LA -i 2018_LA -d 101 --labeled 8\n"
    '  nnunet_ssl convert LA -i "2018LA_Seg_Training Set" -d 102 -name LAh5 --labeled 0.2 --split lists_of_UAMT'
)

IMAGE, MASK, CONTAINER = "lgemri.nrrd", "laendo.nrrd", "mri_norm2.h5"
DEFAULT_SPACING = 0.625


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, default_id=101, default_name="LA")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        default=[DEFAULT_SPACING],
        metavar="MM",
        help="[OPTIONAL] voxel size in mm, one number or three (x y z), for headers that say 1 1 1 and for h5 files, which "
        f"have none. Other headers are kept. Default: {DEFAULT_SPACING}, as published",
    )
    parser.add_argument(
        "--testing_as_unlabeled",
        action="store_true",
        help="[OPTIONAL] add the cases of the challenge's `Testing Set` that are in no list as unlabeled images; their "
        "labels are not read",
    )


def run(args: argparse.Namespace) -> None:
    if len(args.spacing) not in (1, 3):
        raise UserError(f"--spacing {some(map(str, args.spacing))}: allowed are one or three positive numbers in mm.")
    check_voxel_size("--spacing", args.spacing, "one or three")
    spacing = tuple(args.spacing) if len(args.spacing) == 3 else tuple(args.spacing * 3)
    cases = find_cases(args.input)
    is_h5 = cases[0].images[0].name == CONTAINER
    assignment = assign(args.input, cases, args.labeled, args.seed, args.split, args.testing_as_unlabeled)
    say_spacing(cases, is_h5, spacing)
    dataset = DatasetDescription(
        dataset_id=args.dataset_id,
        name=args.name,
        channel_names={"0": "LGE-MRI"},
        labels={"background": 0, "left atrium": 1},
        label_codes=({0: 0, 255: 1}, {0: 0, 1: 1}),
        description="Left atrium cavity in late gadolinium enhanced MRI",
        reference="Atrial Segmentation Challenge 2018, Xiong et al., Medical Image Analysis 67, 2021",
        license="see the Atrial Segmentation Challenge 2018",
        options={"converter": "LA", "form": "h5" if is_h5 else "nrrd", "spacing_without_header": list(spacing)},
    )
    reader = partial(read_h5_case if is_h5 else read_nrrd_case, spacing=spacing)
    write_dataset(dataset, cases, assignment, reader, args.np, args.overwrite)


def find_cases(folder: Path) -> list[Case]:
    """All cases below `folder`, in the order of their paths.

    Raises:
        UserError: no case, a mask without image, a case folder without image, a case twice, both forms mixed.
    """
    cases: dict[str, Case] = {}
    forms: dict[str, Path] = {}
    for root, folders, files in walk(folder):
        case_id = root.absolute().name
        if CONTAINER in files:
            images, label = (root / CONTAINER,), root / CONTAINER
        elif IMAGE in files:
            images, label = (root / IMAGE,), root / MASK if MASK in files else None
        elif MASK in files:
            raise UserError(
                f"{root / MASK} is a label without an image: {IMAGE} is missing. Add it or remove the folder."
            )
        elif re.fullmatch(r"[A-Z0-9]{20}", case_id) and not folders:
            raise UserError(f"{root} is a case folder without {IMAGE} or {CONTAINER}. Complete or remove it.")
        else:
            continue
        if case_id in cases:
            raise UserError(
                f"case {case_id} occurs twice in the input: {cases[case_id].images[0].parent} and {root}. Give -i the folder "
                "of one of them, or move the other away."
            )
        forms[images[0].name] = images[0]
        cases[case_id] = Case(case_id, case_id, images, label, str(images[0].relative_to(folder)))
    if not cases:
        raise UserError(
            f"{folder}: no case found. Expected are folders named by the case id that hold {IMAGE} (and {MASK}), or "
            f"{CONTAINER}, at any depth. Check -i."
        )
    if len(forms) > 1:
        raise UserError(
            f"{folder} mixes the two forms of this data set: {some(map(str, forms.values()))}. Their intensities differ; give -i "
            "a folder with one of them."
        )
    return list(cases.values())


def find_lists(folder: Path, cases: list[Case]) -> SplitLists:
    """Lists that came with the data, else the standard ones restricted to the cases present."""
    wrappers = {case.images[0].parent.parent for case in cases}
    for place in (folder, *sorted(wrappers - {folder}), folder.absolute().parent):
        train = find_list(place, "train", exact=True)
        if train is not None:
            test = find_list(place, "test", exact=True)
            origin = f"{train}{f', {test}' if test else ''}"
            print(f"Using the lists that lie with the data: {origin}. Others: --split.")
            return SplitLists(read_list(train), None, read_list(test) if test else None, origin)
    present = {case.case_id for case in cases}
    standard = {part: shipped_list(f"la_{part}.list") for part in ("train80", "test20")}
    train, test = ([case_id for case_id in ids if case_id in present] for ids in standard.values())
    if not train:
        raise UserError(
            f"{folder}: no train.list found, and none of its {len(cases)} cases (such as {cases[0].case_id}) is in the standard "
            "train list. Give your own lists with --split."
        )
    print(f"Using the standard lists: {len(train)} of 80 training and {len(test)} of 20 test cases are present.")
    return SplitLists(train, None, test or None, "standard lists")


def assign(
    folder: Path,
    cases: list[Case],
    labeled: str | None,
    seed: int | None,
    split: list[str] | None,
    testing_as_unlabeled: bool,
) -> Assignment:
    """Which case goes where; prints what is left out. UserError: see `read_split`, `check_known`, `choose_labeled`."""
    by_id = {case.case_id: case for case in cases}
    lists = read_split(split) if split else find_lists(folder, cases)
    for part in (lists.train, lists.validation or [], lists.test or []):
        check_known(part, by_id, f"a list ({lists.origin})")
    chosen = choose_labeled([case_id for case_id in lists.train if by_id[case_id].label], labeled, seed)
    validation, test = tuple(lists.validation or ()), tuple(lists.test or ())
    unlabeled = [case_id for case_id in lists.train if case_id not in chosen]
    listed = {*lists.train, *validation, *test}
    left = [case_id for case_id in by_id if case_id not in listed]
    if testing_as_unlabeled:
        testing = [case_id for case_id in left if _is_testing(by_id[case_id])]
        unlabeled += testing
        left = [case_id for case_id in left if case_id not in testing]
        print(f"{len(testing)} cases of the Testing Set are used as unlabeled images.")
    if left:
        print(f"{len(left)} case(s) are in no list and are left out: {some(left, 5)}.")
    return Assignment(tuple(chosen), tuple(unlabeled), validation, test)


def _is_testing(case: Case) -> bool:
    return any(part.lower().startswith("test") for part in Path(case.source).parts[:-2])


def say_spacing(cases: list[Case], is_h5: bool, spacing: tuple[float, ...]) -> None:
    text = " x ".join(f"{value:g}" for value in spacing)
    if is_h5:
        print(f"The h5 files carry no spacing: set to {text} mm (--spacing).")
        return
    unit = 0
    for case in cases:
        try:
            header = read_header(case.images[0])
        except UserError:
            # a damaged file is reported, with all others, when the cases are read
            continue
        unit += has_unit_spacing(header)
    if unit:
        print(f"{unit} of {len(cases)} headers say spacing 1 1 1, which is no real one: set to {text} mm (--spacing).")


def has_unit_spacing(header: sitk.Image | sitk.ImageFileReader) -> bool:
    """Whether the header is the challenge's, which says 1 1 1 for voxels of 0.625 mm."""
    return bool(np.allclose(header.GetSpacing(), 1.0))


def read_nrrd_case(case: Case, spacing: tuple[float, ...]) -> tuple[list[sitk.Image], sitk.Image | None]:
    """Image and mask of the challenge's archive; `spacing` in mm (x, y, z) replaces that of unit headers."""
    read = [read_image(path) for path in (*case.images, *([case.label] if case.label else []))]
    for image in read:
        if image.GetDimension() == 3 and has_unit_spacing(image):
            image.SetSpacing(spacing)
    return read[:1], read[1] if case.label else None


def read_h5_case(case: Case, spacing: tuple[float, ...]) -> tuple[list[sitk.Image], sitk.Image | None]:
    """Image and mask of `mri_norm2.h5`, whose arrays are (x, y, z); `spacing` in mm (x, y, z)."""
    arrays = read_h5(case.images[0], ("image", "label") if case.label else ("image",))
    converted = []
    for key, array in arrays.items():
        if array.ndim != 3:
            raise UserError(f"{case.images[0]}: key '{key}' has shape {array.shape}, expected three axes (x, y, z).")
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        image.SetSpacing(spacing)
        converted.append(image)
    return converted[:1], converted[1] if case.label else None
