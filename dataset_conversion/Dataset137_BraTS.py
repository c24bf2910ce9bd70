"""BraTS 2018 to 2023 (adult glioma): multi-modal brain tumor MRI.

Menze et al. 2015, doi:10.1109/TMI.2014.2377694; Baid et al. 2021, arXiv:2107.02314.

    up to 2021   <case>/<case>_{t1,t1ce,t2,flair,seg}.nii[.gz]     codes 0 1 2 4
    2023         <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii[.gz]      codes 0 1 2 3

    1 necrotic and non-enhancing core, 2 edema, 4 (in 2023: 3) enhancing tumor

The year is taken from the names of the files, never from the codes: from 2024 on, the files are named as in 2023, but
4 is the resection cavity. The result has the codes, regions and channel order of nnU-Net's own Dataset137_BraTS21:
1 edema, 2 core, 3 enhancing; whole tumor (1, 2, 3), tumor core (2, 3), enhancing tumor (3); T1, T1ce, T2, Flair.
`to_release_codes` is the way back.

Case folders may lie at any depth (HGG/LGG folders, doubly nested wrappers). A case without segmentation is unlabeled. A
year reuses cases of earlier years under new names, so that years are never mixed.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.dataset_conversion.case_lists import check_known, choose_labeled, read_split
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription, add_common_arguments
from nnunet_ssl.dataset_conversion.reading import read_image, walk
from nnunet_ssl.dataset_conversion.writing import write_dataset
from nnunet_ssl.errors import UserError, listed, some

DESCRIPTION = """Convert BraTS 2018-2023 (glioma).

Without --split, a part of the patients is drawn for testing and, if asked for, for validation; --labeled of the others
keep their labels. Without validation cases, fold 0 validates on the cases it is trained on, and trainers are compared
on the test cases. --seed (then 0 by default) decides about all of this.

With --split, the lists decide and their order counts."""
EXAMPLE = """example:
  nnunet_ssl convert BraTS -i MICCAI_BraTS2020_TrainingData -d 137 --labeled 25

  the protocol of SSL4MIS on BraTS 2019 (FLAIR, whole tumor, lists of 250 / 25 / 60 cases):
  nnunet_ssl convert BraTS -i MICCAI_BraTS_2019_Data_Training -d 137 --labeled 25 --channels flair --whole_tumor \\
      --split train.txt val.txt test.txt"""

CHANNELS = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "Flair"}  # in the order of nnU-Net's converter
_NEW_NAMES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_OLD_FILE = re.compile(r"(?P<case>.+)_(?P<sequence>t1ce|t1|t2|flair)\.nii(\.gz)?", re.IGNORECASE)
_NEW_FILE = re.compile(r"(?P<case>.+)-(?P<sequence>t1n|t1c|t2w|t2f)\.nii(\.gz)?", re.IGNORECASE)
_YEARS = (
    (re.compile(r"Brats18_.+", re.IGNORECASE), 2018),
    (re.compile(r"BraTS19_.+", re.IGNORECASE), 2019),
    (re.compile(r"BraTS20_.+", re.IGNORECASE), 2020),
    (re.compile(r"BraTS2021_.+", re.IGNORECASE), 2021),
)
_GLIOMA_2023 = re.compile(r"(?P<patient>BraTS-GLI-\d+)-\d+", re.IGNORECASE)

CORE, EDEMA, ENHANCING = 2, 1, 3  # in nnU-Net
DEFAULT_TEST_FRACTION = 0.2


def enhancing_code(year: int) -> int:
    """The code of enhancing tumor in the files of a release."""
    return 4 if year <= 2021 else 3


def label_mapping(year: int, whole_tumor: bool) -> dict[int, int]:
    """Code in the files of the release -> code in nnU-Net."""
    if whole_tumor:
        return {0: 0, 1: 1, 2: 1, enhancing_code(year): 1}
    return {0: 0, 1: CORE, 2: EDEMA, enhancing_code(year): ENHANCING}


def to_release_codes(segmentation: np.ndarray, year: int) -> np.ndarray:
    """Predictions of nnU-Net (0 to 3, any shape) in the codes of a release, for submissions."""
    lookup = np.zeros(4, dtype=segmentation.dtype)
    for release, ours in label_mapping(year, whole_tumor=False).items():
        lookup[ours] = release
    return lookup[segmentation]


def read_case(case: Case, year: int) -> tuple[list[sitk.Image], sitk.Image | None]:
    """Images and label of a case, see `read_label`."""
    images = [read_image(file) for file in case.images]
    if case.label is None:
        return images, None
    return images, read_label(case.label, year)


def read_label(file: Path, year: int) -> sitk.Image:
    """UserError for a label of BraTS 2024: its 4 looks like that of the years to 2021."""
    label = read_image(file)
    if year >= 2023 and (sitk.GetArrayViewFromImage(label) == 4).any():
        raise UserError(
            f"{file} holds the code 4. In files named as in 2023 or later it is the resection cavity of BraTS "
            f"2024 (post-treatment), which is not a part of the tumor and has no class here. Allowed: 0, 1, 2, 3. Only "
            f"BraTS 2018 to 2023 can be converted; leave the 2024 cases out of the -i folder."
        )
    return label


def refuse_other_years(cases: Sequence[Case], year: int, num_processes: int) -> None:
    """Read the labels of cases whose labels are not converted: a release of another year is one whatever was drawn from it.

    Raises:
        UserError: see `read_label`; a label that cannot be read.
    """
    if year >= 2023:
        jobs = [(case.label, year) for case in cases if case.label is not None]
        for _, fault in run_in_processes(_label_fault, jobs, num_processes, "Checking labels"):
            if fault:
                raise UserError(fault)


def _label_fault(file: Path, year: int) -> str:
    try:
        read_label(file, year)
    except UserError as error:
        return str(error)
    return ""


def _year_and_patient(case_id: str, new_names: bool, folder: Path) -> tuple[int, str]:
    if new_names:
        glioma = _GLIOMA_2023.fullmatch(case_id)
        if glioma is None:
            raise UserError(
                f"{folder}: '{case_id}' is not a case of the adult glioma track of BraTS 2023 (BraTS-GLI-00000-000). "
                f"The other tracks have other classes and are not converted."
            )
        return 2023, glioma["patient"]
    for pattern, year in _YEARS:
        if pattern.fullmatch(case_id):
            return year, case_id
    raise UserError(
        f"{folder}: the year of '{case_id}' is unknown. Expected names are Brats18_*, BraTS19_*, BraTS20_*, "
        f"BraTS2021_* with files <case>_t1ce.nii.gz, and BraTS-GLI-*-* with files <case>-t1c.nii.gz."
    )


def _label_file(folder: Path, others: list[Path], case_id: str) -> Path | None:
    """The segmentation among the NIfTI files of a folder that are no image sequences.

    The mask of BraTS20_Training_355 is called W39_1998.09.19_Segm.nii, so the name alone does not decide.
    """
    if len(others) > 1:
        raise UserError(
            f"{folder}: more than one file could be the segmentation: {', '.join(file.name for file in others)}. "
            f"Beside the image sequences a case folder holds at most one file, <case>_seg.nii or .nii.gz. Move the "
            f"others away."
        )
    if not others:
        return None
    if "seg" not in others[0].name.lower():
        raise UserError(
            f"{others[0]} is neither an image sequence nor a segmentation of '{case_id}' (<case>_seg.nii or .nii.gz). "
            f"Move it away, or rename it if it is the segmentation."
        )
    return others[0]


def _read_folder(folder: Path, files: list[Path], root: Path, channels: Sequence[str]) -> tuple[Case, int] | None:
    """The case in `folder` and its year; None if no image sequence lies in it."""
    sequences: dict[str, list[Path]] = defaultdict(list)
    case_ids: set[str] = set()
    styles: set[bool] = set()
    others: list[Path] = []
    for file in files:
        old, new = _OLD_FILE.fullmatch(file.name), _NEW_FILE.fullmatch(file.name)
        match = old or new
        if match is None:
            others.append(file)
            continue
        name = match["sequence"].lower()
        sequences[name if old else _NEW_NAMES[name]].append(file)
        case_ids.add(match["case"])
        styles.add(new is not None)
    if not sequences:
        return None
    if len(case_ids) > 1 or len(styles) > 1:
        raise UserError(
            f"{folder} holds image sequences of more than one case ({', '.join(sorted(case_ids))}) or of two naming "
            f"styles. Expected is one folder per case with files <case>_t1ce.nii.gz (to 2021) or <case>-t1c.nii.gz "
            f"(2023)."
        )
    for found in sequences.values():
        if len(found) > 1:
            raise UserError(
                f"{folder} holds one sequence twice: {', '.join(f.name for f in found)}. Remove one of them."
            )
    missing = [name for name in channels if name not in sequences]
    if missing:
        new_names = {old: new for new, old in _NEW_NAMES.items()}
        wanted = [new_names[name] if True in styles else name for name in missing]
        raise UserError(
            f"{folder}: missing {', '.join(wanted)}. Found: {', '.join(file.name for file in files)}. Complete the "
            f"case, remove its folder, or convert only the sequences that all cases have (--channels)."
        )
    case_id = case_ids.pop()
    year, patient = _year_and_patient(case_id, styles.pop(), folder)
    case = Case(
        case_id=case_id,
        patient=patient,
        images=tuple(sequences[name][0] for name in channels),
        label=_label_file(folder, others, case_id),
        source=folder.relative_to(root).as_posix(),
    )
    return case, year


def find_cases(root: Path, channels: Sequence[str] = tuple(CHANNELS)) -> tuple[list[Case], int]:
    """Find all case folders below `root`, at any depth.

    Args:
        root: the folder of a release.
        channels: sequences to read, of `t1`, `t1ce`, `t2`, `flair`; their files become the channels in this order.

    Returns:
        The cases in the order of their ids, and the year of the release.

    Raises:
        UserError: no case, more than one year, faulty case folders (all of them are named), a case that occurs twice.
    """
    cases: dict[str, Case] = {}
    years: dict[int, Case] = {}
    faults: list[str] = []
    for folder, _, names in walk(root):
        nifti = [folder / name for name in names if re.search(r"\.nii(\.gz)?$", name, re.IGNORECASE)]
        try:
            found = _read_folder(folder, nifti, root, channels)
        except UserError as error:
            faults.append(str(error))
            continue
        if found is None:
            continue
        case, year = found
        years.setdefault(year, case)
        if case.case_id in cases:
            first = cases[case.case_id].source
            faults.append(f"{case.case_id} lies in {root / first} and in {root / case.source}. Remove one of them.")
            continue
        cases[case.case_id] = case
    if faults:
        raise UserError(f"{len(faults)} case folder(s) below {root} cannot be used:\n{listed(faults)}")
    if not cases:
        raise UserError(
            f"No BraTS case below {root}. Expected are folders with <case>_t1ce.nii.gz (2018 to 2021) or "
            f"<case>-t1c.nii.gz (2023) and the other sequences."
        )
    if len(years) > 1:
        examples = ", ".join(f"{year} ({root / case.source})" for year, case in sorted(years.items()))
        raise UserError(
            f"{root} holds cases of more than one year: {examples}. BraTS reuses cases of earlier years under new "
            f"names, so that a split across years would put one image on both sides. Give one year with -i."
        )
    return [cases[case_id] for case_id in sorted(cases)], next(iter(years))


def _draw(patients: list[str], fraction: float, option: str, total: int) -> list[str]:
    """The first patients of a shuffled list, as many as `fraction` of `total`, but one at least unless it is 0."""
    if not 0 <= fraction < 1:
        raise UserError(f"{option} {fraction} is not a fraction. Allowed: 0 (none) up to, but not including, 1.")
    number = max(1, round(fraction * total)) if fraction > 0 else 0
    return patients[:number]


def assign(
    cases: Sequence[Case],
    labeled: str | None,
    seed: int | None = None,
    split: Sequence[str | Path] | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
) -> Assignment:
    """Decide which cases are labeled, unlabeled, for validation and for testing; a patient is never cut apart.

    With `split`, the lists decide, and `labeled` counts from the top of the train list unless a seed is given. Without,
    test and validation patients are drawn at random from those with a segmentation, then the labeled ones from the rest
    (the order of the ids is the order of the hospitals, so that the first N would not be a fair sample). Cases without
    segmentation join the unlabeled ones, except those of a validation or test patient.

    Raises:
        UserError: unknown names, a validation case without segmentation, fractions that leave no patient for training,
            and what `choose_labeled` raises.
    """
    by_id = {case.case_id: case for case in cases}
    if split:
        if val_fraction is not None or test_fraction is not None:
            raise UserError(
                "--val_fraction and --test_fraction have no meaning with --split: its lists name the cases."
            )
        lists = read_split(split)
        for entries, what in ((lists.train, "train"), (lists.validation, "validation"), (lists.test, "test")):
            check_known(entries or [], list(by_id), f"the {what} list of {lists.origin}")
        train = [by_id[entry] for entry in lists.train or []]
        validation = [by_id[entry] for entry in lists.validation or []]
        test = [by_id[entry] for entry in lists.test or []]
        without = [case.case_id for case in validation if case.label is None]
        if without:
            raise UserError(
                f"The validation list of {lists.origin} names cases without segmentation: {some(without)}. "
                f"Remove them from the list; they can be unlabeled cases of the train list."
            )
        candidates = list(dict.fromkeys(case.patient for case in train if case.label is not None))
        left_out = len(cases) - len(train) - len(validation) - len(test)
        if left_out:
            print(f"{left_out} of {len(cases)} cases are in none of the lists and are left out.")
    else:
        patients = sorted({case.patient for case in cases if case.label is not None})
        if not patients:
            raise UserError(
                f"None of the {len(cases)} cases has a segmentation, so that nothing could be labeled. Give the "
                f"training data of the release with -i."
            )
        shuffled = [patients[k] for k in np.random.default_rng(seed or 0).permutation(len(patients))]
        seed = None  # the order is random already; its first N are labeled
        test_fraction = DEFAULT_TEST_FRACTION if test_fraction is None else test_fraction
        drawn_test = set(_draw(shuffled, test_fraction, "--test_fraction", len(patients)))
        rest = [patient for patient in shuffled if patient not in drawn_test]
        drawn_validation = set(_draw(rest, val_fraction or 0.0, "--val_fraction", len(patients)))
        train = [case for case in cases if case.patient not in drawn_test | drawn_validation]
        validation = [case for case in cases if case.patient in drawn_validation and case.label is not None]
        test = [case for case in cases if case.patient in drawn_test]
        candidates = [patient for patient in rest if patient not in drawn_validation]
    if not candidates:
        raise UserError(
            "No patient with a segmentation is left for training. Lower --test_fraction or --val_fraction, or check "
            "the train list."
        )
    chosen = set(
        choose_labeled(candidates, labeled, seed, lambda entry: by_id[entry].patient if entry in by_id else entry)
    )
    keeps_label = [case.patient in chosen and case.label is not None for case in train]
    return Assignment(
        labeled=tuple(case.case_id for case, keep in zip(train, keeps_label) if keep),
        unlabeled=tuple(case.case_id for case, keep in zip(train, keeps_label) if not keep),
        validation=tuple(case.case_id for case in validation),
        test=tuple(case.case_id for case in test),
    )


def describe(dataset_id: int, name: str, year: int, channels: Sequence[str], whole_tumor: bool) -> DatasetDescription:
    """dataset.json: the classes of nnU-Net's Dataset137_BraTS21, or background and whole tumor only."""
    if whole_tumor:
        labels: dict[str, int | tuple[int, ...]] = {"background": 0, "whole tumor": 1}
    else:
        labels = {
            "background": 0,
            "whole tumor": (EDEMA, CORE, ENHANCING),
            "tumor core": (CORE, ENHANCING),
            "enhancing tumor": (ENHANCING,),
        }
    return DatasetDescription(
        dataset_id=dataset_id,
        name=name,
        channel_names={str(index): CHANNELS[channel] for index, channel in enumerate(channels)},
        labels=labels,
        label_codes=(label_mapping(year, whole_tumor),),
        regions_class_order=None if whole_tumor else (EDEMA, CORE, ENHANCING),
        description=f"BraTS {year}, multi-modal MRI of glioma",
        reference="Menze et al. 2015, doi:10.1109/TMI.2014.2377694; Baid et al. 2021, arXiv:2107.02314",
        license="terms of the BraTS challenge",
        options={"year": year, "channels": list(channels), "whole_tumor": whole_tumor},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, default_id=137, default_name="BraTS")
    parser.add_argument(
        "--channels",
        nargs="+",
        choices=[*CHANNELS, "all"],
        default=["all"],
        help="[OPTIONAL] sequences to convert, always in the order t1 t1ce t2 flair. Default: all",
    )
    parser.add_argument(
        "--whole_tumor",
        action="store_true",
        help="[OPTIONAL] one class, the whole tumor, in place of the three regions of the challenge",
    )
    parser.add_argument(
        "--test_fraction",
        type=float,
        default=None,
        help="[OPTIONAL] without --split: share of the patients for imagesTs, 0 for none. "
        f"Default: {DEFAULT_TEST_FRACTION}",
    )
    parser.add_argument(
        "--val_fraction",
        type=float,
        default=None,
        help="[OPTIONAL] without --split: share of the patients for validation. Default: 0, fold 0 then validates on "
        "the cases it is trained on",
    )


def run(args: argparse.Namespace) -> int:
    channels = [name for name in CHANNELS if "all" in args.channels or name in args.channels]
    cases, year = find_cases(args.input, channels)
    segmented = sum(case.label is not None for case in cases)
    print(f"BraTS {year}: {len(cases)} cases below {args.input}, {segmented} with a segmentation.")
    for case in cases:
        if case.label is not None and not re.fullmatch(r".+[_-]seg\.nii(\.gz)?", case.label.name, re.IGNORECASE):
            print(f"{case.case_id}: {case.label.name}, the one file that is no image, is taken as its segmentation.")
    assignment = assign(cases, args.labeled, args.seed, args.split, args.val_fraction, args.test_fraction)
    converted = {*assignment.labeled, *assignment.validation, *assignment.test}
    refuse_other_years([case for case in cases if case.case_id not in converted], year, args.np)
    if not assignment.test:
        print("No test cases: trainers can only be compared on the validation cases.")
    dataset = describe(args.dataset_id, args.name, year, channels, args.whole_tumor)
    write_dataset(dataset, cases, assignment, partial(read_case, year=year), args.np, args.overwrite)
    return 0
