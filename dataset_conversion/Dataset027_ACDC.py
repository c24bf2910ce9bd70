"""ACDC: cardiac cine MRI, end-diastolic and end-systolic frame of each patient (Bernard et al., IEEE TMI 2018).

Three forms are read:

* the official folders, `patientXXX/` with `Info.cfg`, `patientXXX_frameYY.nii.gz`, `patientXXX_frameYY_gt.nii.gz` and
  `patientXXX_4d.nii.gz`, below `training` and `testing` or `ACDC/database/training` and `.../testing`;
* the h5 files of SSL4MIS: `data/patientXXX_frame01.h5` and `data/slices/patientXXX_frame01_slice_N.h5`, where frame01 and
  frame02 mean the first and second annotated frame, not positions in the cine;
* the h5 files of WSL4MIS: `ACDC_training_volumes/*.h5`, `ACDC_training_slices/*.h5`, real cine positions, with scribbles.

h5 volumes are (z, y, x), slices (y, x), without spacing. The protocol of SSL4MIS: 70 training, 10 validation and 20 test patients
of the 100 in `training`, the first 3, 7 or 14 of the train list labeled; others in `acdc_protocols`. Patients are never cut
apart by a split.

Scribbles (Valvano et al., IEEE TMI 2021): `patientXXX_frameYY_scribble.nii.gz`, codes 0 to 3 as in the masks and 4 = not annotated,
or the key `scribble` of WSL4MIS' h5 files. They become labelsTr, with 4 as nnU-Net's ignore label; the masks of the same frames
become labelsTr_dense, for validation only.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.files import check_file
from nnunet_ssl.data.texts import check_voxel_size, read_lines, whole_number
from nnunet_ssl.dataset_conversion.acdc_protocols import PROTOCOLS, Protocol, cross_validation, describe
from nnunet_ssl.dataset_conversion.case_lists import check_known, choose_labeled, read_split
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription, add_common_arguments
from nnunet_ssl.dataset_conversion.reading import Geometry, read_geometry, read_h5, read_image, walk
from nnunet_ssl.dataset_conversion.sparse_labels import require_sparse_labels
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError, excerpt, some

DESCRIPTION = (
    "ACDC (cardiac cine MRI) from the official folders or the h5 files of SSL4MIS or WSL4MIS.\n\n"
    "Lists: those given with --split (entries may be patients, frames or slices); else those of --split_patients, by default the\n"
    "70 training, 10 validation and 20 test patients of SSL4MIS, as far as they are present. --labeled counts patients.\n"
    "Patients of no list, such as 101 to 150 of `testing`, are left out (see --testing_as_unlabeled). Fold 0 trains on the\n"
    "labeled frames and validates on the validation patients.\n\n"
    "With --scribbles, labelsTr holds the scribbles (4 = not annotated = ignore) and labelsTr_dense the masks of the same frames,\n"
    "for validation only; test labels are masks."
)
EXAMPLE = (
    "example:\n"
    "  nnunet_ssl convert ACDC -i ACDC -d 27 --labeled 7\n"
    "  nnunet_ssl convert ACDC -i ACDC -d 28 -name ACDC4D --labeled 7 --frames_4d\n"
    "  nnunet_ssl convert ACDC -i ACDC -d 127 -name ACDCscribbles --scribbles acdc_scribbles --split_patients wsl4mis\n"
    "  nnunet_ssl convert ACDC -i WSL4MIS/data/ACDC -d 128 -name WSL4MIS --scribbles --headers acdc_scribbles"
)

# the median in plane (1.48, rounded) and the most frequent distance of slices; true are 0.70-1.92 and 5-10 mm
DEFAULT_H5_SPACING = (1.5, 1.5, 10.0)
NIFTI_NAME = re.compile(r"(patient\d{3})_(?:frame(\d+)(_gt)?|(4d))\.nii(?:\.gz)?")
H5_NAME = re.compile(r"(patient\d{3})_frame(\d+)(?:_slice_(\d+))?\.h5")
SCRIBBLE_NAME = re.compile(r"(patient\d{3})_frame(\d+)_scribble\.nii(?:\.gz)?")
CODES = {0: 0, 1: 1, 2: 2, 3: 3}
NOT_ANNOTATED = 4
SAME_FOLDER = ""  # value of --scribbles without a folder


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
        "--split_patients",
        choices=PROTOCOLS,
        help="[OPTIONAL] published split by patient. ssl4mis: 70 / 10 / 20 for training, validation, test. wsl4mis: 5 folds of 20 "
        "patients, no test part. maag: 35 labeled of 70 / 15 / 15. cyclemix: 35 labeled of 70 / 15 / 15, drawn with --seed. "
        "Default: ssl4mis",
    )
    parser.add_argument(
        "--scribbles",
        nargs="?",
        const=SAME_FOLDER,
        metavar="DIR",
        help="[OPTIONAL] train on scribbles: folder with patientXXX_frameYY_scribble.nii.gz, at any depth. Without DIR they are "
        "looked for below -i; for h5 files, which hold them themselves, give no DIR. Every labeled frame needs one",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="[OPTIONAL] only for h5 files, which have no spacing: voxel size in mm for all of them. Default: "
        f"{' '.join(map(str, DEFAULT_H5_SPACING))}, typical of ACDC; true sizes differ between patients, so that distances in "
        "mm are not true. With --scribbles there is no default",
    )
    parser.add_argument(
        "--headers",
        type=Path,
        metavar="DIR",
        help="[OPTIONAL] only for h5 files: folder with NIfTI files of the same frames (patientXXX_frameYY.nii.gz, _gt or "
        "_scribble), whose geometry is used instead of --spacing",
    )


def run(args: argparse.Namespace) -> None:
    cases, is_h5 = find_cases(args.input)
    sparse = args.scribbles is not None
    geometry = None
    if is_h5:
        geometry = h5_geometry(cases, args.spacing, args.headers, sparse)
        if {case.case_id[-2:] for case in cases} <= {"01", "02"}:
            print(
                "Frame numbers are 01 and 02 only, as in SSL4MIS: first and second annotated frame, not cine positions."
            )
    else:
        for option in ("spacing", "headers"):
            if getattr(args, option):
                raise UserError(
                    f"--{option} is for h5 files only; the headers of the NIfTI files hold the true spacing. Leave it out."
                )
    if sparse:
        cases = add_scribbles(cases, args.input, args.scribbles, is_h5)
    if args.frames_4d:
        if is_h5:
            raise UserError(f"--frames_4d: {args.input} has h5 files, which hold no 4D images. Leave it out.")
        cases += find_frames_4d(args.input, cases)
    if args.split and args.split_patients:
        raise UserError("--split and --split_patients both say who trains and who is tested. Leave one of them out.")
    protocol = None if args.split else PROTOCOLS[args.split_patients or "ssl4mis"](args.seed)
    assignment = assign(
        cases, args.labeled, args.seed, args.split, args.testing_as_unlabeled, protocol, args.frames_4d, sparse
    )
    spacing = tuple(args.spacing or DEFAULT_H5_SPACING)
    options = {
        "converter": "ACDC",
        "form": "h5" if is_h5 else "nifti",
        "spacing": list(spacing) if is_h5 and not args.headers else "of the headers",
    }
    if sparse:
        options["scribbles"] = Path(args.scribbles or args.input).absolute().name
    dataset = DatasetDescription(
        dataset_id=args.dataset_id,
        name=args.name,
        channel_names={"0": "cineMRI"},
        labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3} | ({"ignore": NOT_ANNOTATED} if sparse else {}),
        label_codes=(CODES | {NOT_ANNOTATED: NOT_ANNOTATED} if sparse else CODES,),
        dense_label_codes=(CODES,) if sparse else (),
        description="Right ventricle, left-ventricle myocardium and cavity in cardiac cine MRI"
        + (", scribbles" if sparse else ""),
        reference="Automated Cardiac Diagnosis Challenge 2017, Bernard et al., IEEE TMI 37, 2018"
        + ("; scribbles: Valvano et al., IEEE TMI 40, 2021" if sparse else ""),
        license="see the Automated Cardiac Diagnosis Challenge 2017",
        options=options,
    )
    if is_h5:
        key = "scribble" if sparse else "label"
        reader = partial(read_h5_case, geometry=geometry, label_key=key, check_slices=sparse)
        dense_reader = partial(read_h5_mask, geometry=geometry)
    else:
        reader, dense_reader = read_nifti_case, read_nifti_mask
    write_dataset(dataset, cases, assignment, reader, args.np, args.overwrite, dense_reader)


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
    for line in read_lines(path, "It names the frames of a patient: ED: 1, ES: 12."):
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    frames = {}
    for key in ("ED", "ES"):
        frame = whole_number(entries.get(key, ""))
        if frame is None:
            found = excerpt(entries[key]) if key in entries else "missing"
            raise UserError(f"{path}: key {key} is {found}, expected a frame number such as 'ED: 1'. Restore the file.")
        frames[key] = frame
    return frames


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
        # slices of a volume that is there serve only to be compared with it
        beside = tuple(slice_path for _, slice_path in sorted(slices.get(case_id, {}).items()))
        cases[case_id] = Case(case_id, case_id[:10], (path, *beside), path, str(path.relative_to(folder)))
    rebuilt = len(cases) - len(volumes)
    if rebuilt:
        print(f"{rebuilt} of {len(cases)} volumes are rebuilt from slices.")
    return [cases[case_id] for case_id in sorted(cases)]


def add_scribbles(cases: list[Case], folder: Path, scribbles: str, is_h5: bool) -> list[Case]:
    """The cases with their scribbles as label and their masks as dense mask; prints which scribbles are not used.

    Raises:
        UserError: a folder of scribbles for h5 files, no scribble, or two of one frame.
    """
    if is_h5:
        if scribbles != SAME_FOLDER:
            raise UserError(
                f"--scribbles {scribbles}: the h5 files of {folder} hold scribbles themselves, under the key 'scribble'. Give "
                "--scribbles without a folder, or the NIfTI files of ACDC with -i."
            )
        return [replace(case, dense=case.label) for case in cases]
    place = Path(scribbles) if scribbles != SAME_FOLDER else folder
    found: dict[str, Path] = {}
    for root, _, files in walk(place):
        for name in files:
            if (match := SCRIBBLE_NAME.fullmatch(name)) is None:
                continue
            case_id = f"{match[1]}_frame{int(match[2]):02d}"
            if case_id in found:
                raise UserError(
                    f"the scribble of {case_id} occurs twice: {found[case_id]} and {root / name}. Remove one of them."
                )
            found[case_id] = root / name
    if not found:
        raise UserError(
            f"{place}: no patientXXX_frameYY_scribble.nii.gz found at any depth. Unpack acdc_scribbles.zip and give its folder "
            "with --scribbles."
        )
    strangers = sorted(set(found) - {case.case_id for case in cases})
    if strangers:
        print(f"{len(strangers)} scribble(s) have no image below {folder} and are not used: {some(strangers, 5)}.")
    return [replace(case, label=found.get(case.case_id), dense=case.label) for case in cases]


def h5_geometry(
    cases: list[Case], spacing: list[float] | None, headers: Path | None, sparse: bool
) -> dict[str, Geometry]:
    """Geometry of every case: `spacing` for all, or what the NIfTI headers say; prints which.

    Raises:
        UserError: both or, for scribbles, none of the two are given; a spacing that is not positive; a case without header.
    """
    if headers is not None:
        if spacing:
            raise UserError("--spacing and --headers both say how large voxels are. Leave one of them out.")
        # of several files of a frame: the image's, the mask's, the scribble's
        found: dict[str, dict[int, Path]] = defaultdict(dict)
        for root, _, files in walk(headers):
            for name in files:
                match, rank = NIFTI_NAME.fullmatch(name), 0
                if match is None:
                    match, rank = SCRIBBLE_NAME.fullmatch(name), 2
                elif match[4]:
                    continue
                elif match[3]:
                    rank = 1
                if match is not None:
                    found[f"{match[1]}_frame{int(match[2]):02d}"][rank] = root / name
        missing = [case.case_id for case in cases if case.case_id not in found]
        if missing:
            raise UserError(
                f"--headers {headers}: no patientXXX_frameYY.nii.gz, _gt.nii.gz or _scribble.nii.gz for {len(missing)} of "
                f"{len(cases)} frames: {some(missing, 5)}. Complete the folder, or give --spacing X Y Z."
            )
        print(
            f"The h5 files carry no spacing; the geometry of {len(cases)} frames is that of the headers in {headers}."
        )
        return {case.case_id: read_geometry(min(found[case.case_id].items())[1]) for case in cases}
    if not spacing and sparse:
        raise UserError(
            "the h5 files carry no spacing, and true voxel sizes differ between patients. Give --headers with the folder of the "
            "scribble release or of ACDC's NIfTI files, or --spacing X Y Z in mm for all patients."
        )
    spacing = tuple(spacing or DEFAULT_H5_SPACING)
    check_voxel_size("--spacing", spacing, "three")
    text = " x ".join(f"{value:g}" for value in spacing)
    print(
        f"Warning: the h5 files carry no spacing; {text} mm (--spacing) is written for all patients, whose true voxel sizes "
        "differ. Distances and volumes in mm will not be true."
    )
    return dict.fromkeys((case.case_id for case in cases), Geometry(spacing))


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
            check_file(path)
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
    protocol: Protocol | None,
    frames_4d: bool = False,
    sparse: bool = False,
) -> Assignment:
    """Which case goes where, by the lists of `split` or by the protocol; prints what is left out.

    Raises:
        UserError: see `read_split`, `check_known`, `choose_labeled`, `require_sparse_labels`, `cross_validation`.
    """
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    groups = protocol.groups if protocol else ()
    if split:
        lists = read_split(split)
        parts = [
            list(dict.fromkeys(map(patient_of, part or []))) for part in (lists.train, lists.validation, lists.test)
        ]
        for part in parts:
            check_known(part, by_patient, f"a list ({lists.origin})")
    else:
        parts = [
            [patient for patient in part if patient in by_patient]
            for part in (protocol.train, protocol.validation, protocol.test)
        ]
        print(describe(protocol, by_patient))
        if not parts[0]:
            raise UserError(
                f"none of the {len(by_patient)} patients found ({some(sorted(by_patient), 3)}) is in the standard train list. Give "
                "your own lists with --split."
            )
    if groups and (labeled or frames_4d):
        raise UserError(
            f"--split_patients wsl4mis tests every patient in one of its folds: {'--labeled' if labeled else '--frames_4d'} would "
            "make test patients unlabeled training images. Leave it out; `nnunet_ssl split --labeled N` hides labels fold by fold."
        )
    train, validation, test = parts
    with_label = [patient for patient in train if any(case.label for case in by_patient[patient])]
    if labeled is None and protocol is not None and protocol.labeled is not None:
        if seed is not None and not protocol.drawn:
            raise UserError(
                f"--split_patients {protocol.name} says which patients are labeled, so --seed {seed} has nothing to choose. Leave "
                "it out, or give --labeled N."
            )
        wanted = [patient for patient in protocol.labeled if patient in by_patient]
        chosen = set(wanted)
    else:
        chosen = set(choose_labeled(with_label, labeled, seed, patient_of))
        wanted = train if labeled is None else chosen
    if sparse:
        # the frames of the 4D files have no scribbles in any release
        frames = [
            case for patient in train if patient in wanted for case in by_patient[patient] if frame_of_4d(case) is None
        ]
        require_sparse_labels(frames, "patientXXX_frameYY_scribble.nii.gz")
    in_training = [case for patient in train for case in by_patient[patient]]
    labeled_cases = [case for case in in_training if case.patient in chosen and case.label]
    labeled_ids = {case.case_id for case in labeled_cases}
    unlabeled_ids = [case.case_id for case in in_training if case.case_id not in labeled_ids]
    if groups and unlabeled_ids:
        # a fold must not train on other frames of the patients that it tests
        print(f"{len(unlabeled_ids)} frame(s) have no label and are left out: {some(unlabeled_ids, 5)}.")
        unlabeled_ids = []
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
    idle = [case.case_id for case in in_validation if case.label is None and case.dense is None]
    if idle:
        print(f"{len(idle)} frame(s) of validation patients have no label and are left out: {some(idle, 5)}.")
    return Assignment(
        labeled=tuple(case.case_id for case in labeled_cases),
        unlabeled=tuple(unlabeled_ids),
        validation=tuple(case.case_id for case in in_validation if case.case_id not in idle),
        # of the test patients, the two frames that the challenge asks for; not those of the 4D files
        test=tuple(case.case_id for patient in test for case in by_patient[patient] if frame_of_4d(case) is None),
        folds=cross_validation(labeled_cases, groups) if groups else (),
    )


def _is_testing(case: Case) -> bool:
    return any(part.lower().startswith("test") for part in Path(case.source).parts[:-1])


# --- reading ----------------------------------------------------------------------------------------------------------


def frame_of_4d(case: Case) -> int | None:
    """Number of the frame of a 4D file, from 1; None for other files. A `#` in the name of a folder means nothing."""
    found = re.search(r"_4d\.nii(?:\.gz)?#([0-9]+)$", case.source)
    return int(found[1]) if found else None


def read_nifti_case(case: Case) -> tuple[list[sitk.Image], sitk.Image | None]:
    """A frame and its label, or one frame of a 4D file (`case.source` ends in `#<1-based number>`)."""
    path = case.images[0]
    number = frame_of_4d(case)
    if number is None:
        return [read_image(path)], read_image(case.label) if case.label else None
    check_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    reader.SetExtractSize([*reader.GetSize()[:3], 0])
    reader.SetExtractIndex([0, 0, 0, number - 1])
    return [reader.Execute()], None


def read_nifti_mask(case: Case) -> sitk.Image:
    return read_image(case.dense)


def read_h5_case(
    case: Case, geometry: Mapping[str, Geometry], label_key: str = "label", check_slices: bool = False
) -> tuple[list[sitk.Image], sitk.Image | None]:
    """Image and label of a volume (z, y, x), or of all slices (y, x) of one in their order.

    Args:
        geometry: of every case, by its id.
        check_slices: compare the slice files that lie beside a volume with it.
    """
    keys = ("image", label_key) if case.label else ("image",)
    images = [_h5_image(case, key, geometry, check_slices) for key in keys]
    return images[:1], images[1] if case.label else None


def read_h5_mask(case: Case, geometry: Mapping[str, Geometry]) -> sitk.Image:
    """The dense mask, key `label`; the slice files beside a volume are compared with it."""
    return _h5_image(case, "label", geometry, check_slices=True)


def _h5_image(case: Case, key: str, geometry: Mapping[str, Geometry], check_slices: bool) -> sitk.Image:
    first = case.images[0]
    if H5_NAME.fullmatch(first.name)[3] is None:
        array = read_h5(first, (key,))[key]
        if array.ndim != 3:
            raise _wrong_shape(first, key, array, "three axes (z, y, x)")
        for path in case.images[1:] if check_slices else ():
            number = int(H5_NAME.fullmatch(path.name)[3])
            part = read_h5(path, (key,))[key]
            if number >= len(array) or not np.array_equal(part, array[number]):
                raise UserError(
                    f"{path}: key '{key}' differs from slice {number} (from 0) of {first}, which has {len(array)} slices. The "
                    "slices are cuts of the volumes: download both again, or remove the slice files."
                )
    else:
        parts = [read_h5(path, (key,))[key] for path in case.images]
        for path, part in zip(case.images, parts, strict=True):
            if part.ndim != 2 or part.shape != parts[0].shape:
                raise _wrong_shape(path, key, part, f"{parts[0].shape} as {first.name}")
        array = np.stack(parts)
    image = sitk.GetImageFromArray(array)
    geometry[case.case_id].apply(image, first)
    return image


def _wrong_shape(path: Path, key: str, array: np.ndarray, expected: str) -> UserError:
    return UserError(f"{path}: key '{key}' has shape {array.shape}, expected {expected}. Restore the file.")
