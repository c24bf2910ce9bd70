"""ACDC: cardiac cine MRI, end-diastolic and end-systolic frame of each patient (Bernard et al., IEEE TMI 2018).

Three forms are read:

* the official folders, `patientXXX/` with `Info.cfg`, `patientXXX_frameYY.nii.gz`, `patientXXX_frameYY_gt.nii.gz` and
  `patientXXX_4d.nii.gz`, below `training` and `testing` or `ACDC/database/training` and `.../testing`;
* the h5 files of SSL4MIS: `data/patientXXX_frame01.h5` and `data/slices/patientXXX_frame01_slice_N.h5`, where frame01 and
  frame02 mean the first and second annotated frame, not positions in the cine;
* the h5 files of WSL4MIS: `ACDC_training_volumes/*.h5`, `ACDC_training_slices/*.h5`, real cine positions.

h5 volumes are (z, y, x), slices (y, x), without spacing. The protocol of SSL4MIS: 70 training, 10 validation and 20 test patients
of the 100 in `training`, the first 3, 7 or 14 of the train list labeled. Patients are never cut apart by a split.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.dataset_conversion.case_lists import SplitLists, check_known, choose_labeled, read_split, shipped_list
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription, add_common_arguments, some
from nnunet_ssl.dataset_conversion.reading import check_nifti, read_h5, read_image, walk
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError

DESCRIPTION = (
    "ACDC (cardiac cine MRI) from the official folders or the h5 files of SSL4MIS or WSL4MIS.\n\n"
    "Lists: those given with --split (entries may be patients, frames or slices); else the 70 training, 10 validation and 20\n"
    "test patients of SSL4MIS, as far as they are present. --labeled counts patients. Patients of no list, such as 101 to 150\n"
    "of `testing`, are left out (see --testing_as_unlabeled). Fold 0 trains on the labeled frames and validates on the\n"
    "validation patients."
)
EXAMPLE = (
    "example:\n"
    "  nnunet_ssl convert ACDC -i ACDC -d 27 --labeled 7\n"
    "  nnunet_ssl convert ACDC -i ACDC -d 28 -name ACDC4D --labeled 7 --frames_4d"
)

# the median in plane (1.48, rounded) and the most frequent distance of slices; true are 0.70-1.92 and 5-10 mm
DEFAULT_H5_SPACING = (1.5, 1.5, 10.0)
NIFTI_NAME = re.compile(r"(patient\d{3})_(?:frame(\d+)(_gt)?|(4d))\.nii(?:\.gz)?")
H5_NAME = re.compile(r"(patient\d{3})_frame(\d+)(?:_slice_(\d+))?\.h5")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, default_id=27, default_name="ACDC")
    parser.add_argument(
        "--frames_4d",
        action="store_true",
        help="[OPTIONAL] also use the frames of patientXXX_4d.nii.gz that are no files of their own, as unlabeled images of the "
        "training patients",
    )
    parser.add_argument(
        "--testing_as_unlabeled",
        action="store_true",
        help="[OPTIONAL] add the patients of the folder `testing` that are in no list as unlabeled images; their labels are "
        "not read",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="[OPTIONAL] only for h5 files, which have no spacing: voxel size in mm for all of them. Default: "
        f"{' '.join(map(str, DEFAULT_H5_SPACING))}, typical of ACDC; true sizes differ between patients, so that distances in "
        "mm are not true",
    )


def run(args: argparse.Namespace) -> None:
    cases, is_h5 = find_cases(args.input)
    spacing = tuple(args.spacing or DEFAULT_H5_SPACING)
    if is_h5:
        if min(spacing) <= 0:
            raise UserError(f"--spacing {some(map(str, spacing))}: allowed are three positive numbers in mm.")
        text = " x ".join(f"{value:g}" for value in spacing)
        print(
            f"Warning: the h5 files carry no spacing; {text} mm (--spacing) is written for all patients, whose true voxel sizes "
            "differ. Distances and volumes in mm will not be true."
        )
        if {case.case_id[-2:] for case in cases} <= {"01", "02"}:
            print(
                "Frame numbers are 01 and 02 only, as in SSL4MIS: first and second annotated frame, not cine positions."
            )
    elif args.spacing:
        raise UserError(
            "--spacing is for h5 files only; the headers of the NIfTI files hold the true spacing. Leave it out."
        )
    if args.frames_4d:
        if is_h5:
            raise UserError(f"--frames_4d: {args.input} has h5 files, which hold no 4D images. Leave it out.")
        cases += find_frames_4d(args.input, cases)
    assignment = assign(cases, args.labeled, args.seed, args.split, args.testing_as_unlabeled)
    dataset = DatasetDescription(
        dataset_id=args.dataset_id,
        name=args.name,
        channel_names={"0": "cineMRI"},
        labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3},
        label_codes=({0: 0, 1: 1, 2: 2, 3: 3},),
        description="Right ventricle, left-ventricle myocardium and cavity in cardiac cine MRI",
        reference="Automated Cardiac Diagnosis Challenge 2017, Bernard et al., IEEE TMI 37, 2018",
        license="see the Automated Cardiac Diagnosis Challenge 2017",
        options={
            "converter": "ACDC",
            "form": "h5" if is_h5 else "nifti",
            "spacing": list(spacing) if is_h5 else "of the headers",
        },
    )
    reader = partial(read_h5_case, spacing=spacing) if is_h5 else read_nifti_case
    write_dataset(dataset, cases, assignment, reader, args.np, args.overwrite)


# --- finding the cases ------------------------------------------------------------------------------------------------


def find_cases(folder: Path) -> tuple[list[Case], bool]:
    """All annotated or single frames below `folder`, and whether they are h5 files.

    Raises:
        UserError: no case, both forms mixed, and what `_nifti_cases` and `_h5_cases` raise.
    """
    nifti: dict[Path, dict[str, re.Match]] = {}
    h5: dict[Path, re.Match] = {}
    for root, folders, files in walk(folder):
        h5.update({root / name: match for name in files if (match := H5_NAME.fullmatch(name))})
        found = {name: match for name in files if (match := NIFTI_NAME.fullmatch(name))}
        if found:
            nifti[root] = found
        elif re.fullmatch(r"patient\d{3}", root.name) and not folders:
            raise UserError(f"{root} is a patient's folder without patientXXX_frameYY.nii.gz. Complete or remove it.")
    if nifti and h5:
        raise UserError(
            f"{folder} mixes NIfTI files ({next(iter(nifti))}) and h5 files ({next(iter(h5))}). Their intensities differ; "
            "give -i a folder with one of them."
        )
    cases = _nifti_cases(folder, nifti) if nifti else _h5_cases(folder, h5)
    if not cases:
        raise UserError(
            f"{folder}: no frame found. Expected are patientXXX/patientXXX_frameYY.nii.gz (with _gt.nii.gz) or "
            "patientXXX_frameYY.h5 or patientXXX_frameYY_slice_N.h5, at any depth. Check -i."
        )
    return cases, bool(h5)


def _nifti_cases(folder: Path, found: dict[Path, dict[str, re.Match]]) -> list[Case]:
    """UserError: a frame twice, a label without image, Info.cfg without ED or ES, a frame named there that is missing."""
    cases: dict[str, Case] = {}
    for root, matches in found.items():
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        for name, match in matches.items():
            if match[4]:
                continue
            files = labels if match[3] else images
            # two digits, as official: `patient001_frame1` and `patient001_frame01` are one frame
            case_id = f"{match[1]}_frame{int(match[2]):02d}"
            if case_id in files:
                raise UserError(
                    f"frame {case_id} occurs twice: {files[case_id]} and {root / name}. Remove one of them."
                )
            files[case_id] = root / name
        for case_id, label in labels.items():
            if case_id not in images:
                raise UserError(
                    f"{label} is a label without an image: {case_id}.nii.gz is missing. Add it or remove the label."
                )
        for case_id, image in images.items():
            if case_id in cases:
                raise UserError(
                    f"frame {case_id} occurs twice: {cases[case_id].images[0]} and {image}. Give -i the folder of one of them."
                )
            cases[case_id] = Case(case_id, case_id[:10], (image,), labels.get(case_id), str(image.relative_to(folder)))
        if (root / "Info.cfg").is_file():
            patient = next(iter(matches.values()))[1]
            for key, frame in read_info(root / "Info.cfg").items():
                if f"{patient}_frame{frame:02d}" not in images:
                    raise UserError(
                        f"{root / 'Info.cfg'}: key {key} names frame {frame}, but {patient}_frame{frame:02d}.nii.gz is missing; "
                        f"found {some(sorted(images)) or 'no frame'}. Complete the download."
                    )
    return list(cases.values())


def read_info(path: Path) -> dict[str, int]:
    """ED and ES of an Info.cfg: 1-based frame numbers of end diastole and end systole (4 and 11 for patient090).

    Raises:
        UserError: a key is missing or no number.
    """
    entries = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    for key in ("ED", "ES"):
        if not entries.get(key, "").isdigit():
            raise UserError(
                f"{path}: key {key} is {entries.get(key, 'missing')!r}, expected a frame number such as 'ED: 1'. Restore the file."
            )
    return {key: int(entries[key]) for key in ("ED", "ES")}


def _h5_cases(folder: Path, found: dict[Path, re.Match]) -> list[Case]:
    """UserError: a volume or slice twice, a gap in the slice numbers of a frame."""
    volumes: dict[str, Path] = {}
    slices: dict[str, dict[int, Path]] = defaultdict(dict)
    for path, match in found.items():
        case_id = f"{match[1]}_frame{int(match[2]):02d}"
        files, key = (volumes, case_id) if match[3] is None else (slices[case_id], int(match[3]))
        if key in files:
            raise UserError(f"{path.name} occurs twice: {files[key]} and {path}. Give -i the folder of one of them.")
        files[key] = path
    cases = {}
    for case_id, parts in slices.items():
        if case_id in volumes:
            continue
        numbers = sorted(parts)  # numbers, not names: slice_10 comes after slice_9
        missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        if missing:
            raise UserError(
                f"{case_id}: slice(s) {some(map(str, missing))} of 0 to {numbers[-1]} are missing in {parts[numbers[0]].parent}. "
                "A volume is rebuilt from all of its slices: complete the download."
            )
        paths = tuple(parts[number] for number in numbers)
        source = str(paths[0].relative_to(folder))
        cases[case_id] = Case(case_id, case_id[:10], paths, paths[0], source)
    for case_id, path in volumes.items():
        cases[case_id] = Case(case_id, case_id[:10], (path,), path, str(path.relative_to(folder)))
    rebuilt = len(cases) - len(volumes)
    if rebuilt:
        print(f"{rebuilt} of {len(cases)} volumes are rebuilt from slices.")
    return [cases[case_id] for case_id in sorted(cases)]


def find_frames_4d(folder: Path, cases: list[Case]) -> list[Case]:
    """Frames of the 4D files that are no files of their own, as cases without label.

    Raises:
        UserError: there is no 4D file, or one cannot be read or has not four dimensions.
    """
    known = {case.case_id for case in cases}
    frames = []
    for root, _, files in walk(folder):
        for name in files:
            match = NIFTI_NAME.fullmatch(name)
            if match is None or not match[4]:
                continue
            path = root / name
            check_nifti(path)
            header = sitk.ImageFileReader()
            header.SetFileName(str(path))
            header.ReadImageInformation()
            if header.GetDimension() != 4:
                raise UserError(
                    f"{path} has {header.GetDimension()} dimensions, expected 4 (x, y, z, t). Restore the file."
                )
            for number in range(1, header.GetSize()[3] + 1):
                case_id = f"{match[1]}_frame{number:02d}"
                if case_id not in known:
                    source = f"{path.relative_to(folder)}#{number}"
                    frames.append(Case(case_id, match[1], (path,), None, source))
    if not frames:
        raise UserError(
            f"--frames_4d: no patientXXX_4d.nii.gz with further frames below {folder}. Complete the download, or leave it out."
        )
    return frames


# --- who goes where ---------------------------------------------------------------------------------------------------


def patient_of(entry: str) -> str:
    """Patient of a list entry, which may be a patient, a frame or a slice. UserError if it is none of them."""
    match = re.match(r"patient\d{3}", entry)
    if match is None:
        raise UserError(
            f"a list names '{entry}'; expected are entries like patient001, patient001_frame01 or patient001_frame01_slice_3. "
            "Correct the list."
        )
    return match[0]


def assign(
    cases: list[Case],
    labeled: str | None,
    seed: int | None,
    split: list[str] | None,
    testing_as_unlabeled: bool,
) -> Assignment:
    """Which case goes where; prints what is left out. UserError: see `read_split`, `check_known`, `choose_labeled`."""
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    if split:
        lists = read_split(split)
        parts = [
            list(dict.fromkeys(map(patient_of, part or []))) for part in (lists.train, lists.validation, lists.test)
        ]
        for part in parts:
            check_known(part, by_patient, f"a list ({lists.origin})")
    else:
        lists = SplitLists(*map(shipped_list, ("acdc_train70.list", "acdc_val10.list", "acdc_test20.list")))
        parts = [[p for p in part if p in by_patient] for part in (lists.train, lists.validation, lists.test)]
        print(
            "Using the standard lists of SSL4MIS: "
            f"{len(parts[0])} of 70 training, {len(parts[1])} of 10 validation and {len(parts[2])} of 20 test patients are present."
        )
        if not parts[0]:
            raise UserError(
                f"none of the {len(by_patient)} patients found ({some(sorted(by_patient), 3)}) is in the standard train list. Give "
                "your own lists with --split."
            )
    train, validation, test = parts
    with_label = [patient for patient in train if any(case.label for case in by_patient[patient])]
    chosen = set(choose_labeled(with_label, labeled, seed, patient_of))
    in_training = [case for patient in train for case in by_patient[patient]]
    labeled_ids = [case.case_id for case in in_training if case.patient in chosen and case.label]
    unlabeled_ids = [case.case_id for case in in_training if case.case_id not in labeled_ids]
    left = [patient for patient in sorted(by_patient) if patient not in {*train, *validation, *test}]
    if testing_as_unlabeled:
        testing = [patient for patient in left if any(_is_testing(case) for case in by_patient[patient])]
        unlabeled_ids += [case.case_id for patient in testing for case in by_patient[patient]]
        left = [patient for patient in left if patient not in testing]
        print(f"{len(testing)} patients of the folder `testing` are used as unlabeled images.")
    if left:
        print(f"{len(left)} patient(s) are in no list and are left out: {some(left, 5)}.")
    # frames without label serve neither validation nor evaluation, and must not be trained on either
    in_validation = [case for patient in validation for case in by_patient[patient]]
    idle = [case.case_id for case in in_validation if case.label is None]
    if idle:
        print(f"{len(idle)} frame(s) of validation patients have no label and are left out: {some(idle, 5)}.")
    return Assignment(
        labeled=tuple(labeled_ids),
        unlabeled=tuple(unlabeled_ids),
        validation=tuple(case.case_id for case in in_validation if case.label),
        # of the test patients, the two frames that the challenge asks for; not those of the 4D files
        test=tuple(case.case_id for patient in test for case in by_patient[patient] if "#" not in case.source),
    )


def _is_testing(case: Case) -> bool:
    return any(part.lower().startswith("test") for part in Path(case.source).parts[:-1])


# --- reading ----------------------------------------------------------------------------------------------------------


def read_nifti_case(case: Case) -> tuple[list[sitk.Image], sitk.Image | None]:
    """A frame and its label, or one frame of a 4D file (`case.source` ends in `#<1-based number>`)."""
    path = case.images[0]
    _, _, number = case.source.partition("#")
    if not number:
        return [read_image(path)], read_image(case.label) if case.label else None
    check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    reader.SetExtractSize([*reader.GetSize()[:3], 0])
    reader.SetExtractIndex([0, 0, 0, int(number) - 1])
    return [reader.Execute()], None


def read_h5_case(case: Case, spacing: tuple[float, ...]) -> tuple[list[sitk.Image], sitk.Image | None]:
    """A volume (z, y, x), or all slices (y, x) of one in their order; `spacing` in mm (x, y, z)."""
    keys = ("image", "label") if case.label else ("image",)
    parts = [read_h5(path, keys) for path in case.images]
    converted = []
    for key in keys:
        arrays = [part[key] for part in parts]
        dimensions = 3 if H5_NAME.fullmatch(case.images[0].name)[3] is None else 2
        for path, array in zip(case.images, arrays, strict=True):
            if array.ndim != dimensions or array.shape != arrays[0].shape:
                expected = "three axes (z, y, x)" if dimensions == 3 else f"{arrays[0].shape} as {case.images[0].name}"
                raise UserError(f"{path}: key '{key}' has shape {array.shape}, expected {expected}. Restore the file.")
        image = sitk.GetImageFromArray(arrays[0] if dimensions == 3 else np.stack(arrays))
        image.SetSpacing(spacing)
        converted.append(image)
    return converted[:1], converted[1] if case.label else None
