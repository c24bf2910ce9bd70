"""The one way to write a data set in nnU-Net's raw format: checked cases, in worker processes, with a report."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.splits import split_hash, write_splits
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash
from nnunet_ssl.dataset_conversion.case_lists import check_known
from nnunet_ssl.dataset_conversion.common import LISTED_FAULTS, Assignment, Case, DatasetDescription, Reader, some
from nnunet_ssl.dataset_conversion.reading import check_images, map_label
from nnunet_ssl.dataset_conversion.staging import (
    DISK_FULL,
    disk_message,
    put_in_place,
    recover,
    staging_folder,
    write_image,
)
from nnunet_ssl.errors import UserError

FILE_ENDING = ".nii.gz"


def write_dataset(
    dataset: DatasetDescription,
    cases: Sequence[Case],
    assignment: Assignment,
    reader: Reader,
    num_processes: int = 8,
    overwrite: bool = False,
) -> Path:
    """Write `nnUNet_raw/DatasetXXX_Name` with images, labels, dataset.json, unlabeled.json and splits_final.json.

    Cases that `assignment` does not name are left out. Every case is checked: channels and label share shape, spacing,
    origin and direction, voxels are finite, the label holds only codes of `label_codes`. All faulty cases are reported
    together. The data set is written to a hidden sibling and renamed when it is complete; an existing one is replaced
    only then, and only with `overwrite`. If the existing one is the result of the same request, nothing is written.

    The split has one fold: training on all labeled cases, validation on `assignment.validation`, or on the same labeled
    cases where the protocol has no validation list.

    Returns:
        The folder of the data set.

    Raises:
        UserError: a faulty case or assignment, a full disk, a worker that died, an id that belongs to another data set, an
            existing data set that differs.
    """
    target = target_folder(dataset.dataset_id, dataset.name)
    by_id = _check_cases(cases)
    _check_assignment(assignment, by_id)
    recover(target)
    staging = staging_folder(target)
    records = _records(assignment, by_id)
    number = len(assignment.labeled) + len(assignment.validation) + len(assignment.unlabeled) + len(assignment.test)
    try:
        staging.mkdir(parents=True)
        _write_dataset_json(staging, dataset, len(assignment.labeled) + len(assignment.validation))
        split = {
            "train": sorted(assignment.labeled),
            "val": sorted(assignment.validation or assignment.labeled),
        }
        write_splits(staging / "splits_final.json", [split], overwrite=False)
        if target.exists():
            same = _same_request(staging, target, records)
            if same and not overwrite:
                print(
                    f"{target} already holds this conversion ({number} cases); nothing is written. "
                    "--overwrite converts again."
                )
                return target
            if not overwrite:
                raise UserError(
                    f"{target} exists and holds another conversion: cases, labels, options or split differ. Allowed: a free id "
                    "(-d), or --overwrite, which replaces the folder once the new one is complete."
                )
        hashes = _convert_all(dataset, by_id, assignment, reader, staging, num_processes)
        for case_id, record in [*records.unlabeled.items(), *records.labeled.items(), *records.test.items()]:
            record.sha256 = hashes[case_id]
        records.save(staging / "unlabeled.json")
        put_in_place(staging, target)
    except OSError as error:
        raise UserError(disk_message(error, target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(dataset, assignment, by_id, target, split)
    _report_identical(hashes, dataset.dataset_id)
    return target


def target_folder(dataset_id: int, name: str, option: str = "-d") -> Path:
    """`nnUNet_raw/DatasetXXX_Name` of a data set to be made; `option` is what the id is called on the command line.

    Raises:
        UserError: an id or a name that nnU-Net does not take, an id that another data set has, nnUNet_raw is not set.
    """
    from nnunetv2.paths import nnUNet_raw
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    if not 1 <= dataset_id <= 999:
        raise UserError(f"{option} {dataset_id}: a data set id lies between 1 and 999.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"-name {name}: allowed are letters, digits, '_' and '-', as in Dataset101_LA.")
    if not nnUNet_raw.is_set():
        raise UserError(
            "the environment variable nnUNet_raw is not set. Allowed: the folder of nnU-Net's raw data sets. "
            "Set it: export nnUNet_raw=/path/to/nnUNet_raw"
        )
    folder_name = f"Dataset{dataset_id:03d}_{name}"
    # nnU-Net finds a data set by its number in the raw, the preprocessed and the results folder and stops at two names
    others = [str(other) for other in find_candidate_datasets(dataset_id) if other != folder_name]
    if others:
        raise UserError(
            f"{option} {dataset_id}: the id belongs to {some(others)} (in nnUNet_raw, nnUNet_preprocessed or "
            f"nnUNet_results), so {folder_name} cannot be made. Give a free id with {option}, or the same name with -name."
        )
    return Path(str(nnUNet_raw)).absolute() / folder_name


def _check_cases(cases: Sequence[Case]) -> dict[str, Case]:
    by_id: dict[str, Case] = {}
    for case in cases:
        if case.case_id in by_id:
            raise UserError(
                f"case {case.case_id} occurs twice in the input: {by_id[case.case_id].source} and {case.source}. "
                "Remove or move away one of them."
            )
        if re.search(r"_\d{4}$", case.case_id):
            raise UserError(
                f"case {case.case_id} ({case.source}): an id must not end in '_' and four digits, which is how nnU-Net marks "
                "channels. Rename the case."
            )
        by_id[case.case_id] = case
    return by_id


def _check_assignment(assignment: Assignment, by_id: Mapping[str, Case]) -> None:
    parts = {part: getattr(assignment, part) for part in ("labeled", "unlabeled", "validation", "test")}
    seen: dict[str, str] = {}
    for part, ids in parts.items():
        check_known(ids, by_id, f"the list of {part} cases")
        for case_id in ids:
            if case_id in seen:
                raise UserError(
                    f"case {case_id} is both {seen[case_id]} and {part}. A case belongs to one list: correct the files given "
                    "with --split."
                )
            seen[case_id] = part
    if not parts["labeled"]:
        raise UserError(
            "no labeled case: no case of the train list has a label. Allowed: at least one. Check -i and --split."
        )
    for part in ("labeled", "validation"):
        without = [case_id for case_id in parts[part] if by_id[case_id].label is None]
        if without:
            raise UserError(
                f"{len(without)} {part} case(s) have no label file: {some(without)}. Add the label, or remove the case from "
                "the list."
            )
    side_of: dict[str, str] = {}
    sides = {"labeled": "training", "unlabeled": "training", "validation": "validation", "test": "test"}
    for case_id, part in seen.items():
        patient, side = by_id[case_id].patient, sides[part]
        if side_of.setdefault(patient, side) != side:
            raise UserError(
                f"patient {patient} has cases for {side_of[patient]} and for {side} ({case_id}). A patient belongs to one "
                "side: correct the files given with --split."
            )


def _records(assignment: Assignment, by_id: Mapping[str, Case]) -> UnlabeledList:
    """The content of unlabeled.json, hashes still empty. `groups` names the cases whose patient has another id."""

    def part(ids: Iterable[str]) -> dict[str, CaseRecord]:
        return {case_id: CaseRecord(by_id[case_id].source, "") for case_id in ids}

    records = UnlabeledList(
        unlabeled=part(assignment.unlabeled),
        labeled=part((*assignment.labeled, *assignment.validation)),
        test=part(assignment.test),
    )
    for case_id in (*records.unlabeled, *records.labeled, *records.test):
        if by_id[case_id].patient != case_id:
            records.groups[case_id] = by_id[case_id].patient
    return records


def _write_dataset_json(folder: Path, dataset: DatasetDescription, num_training: int) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    generate_dataset_json(
        str(folder),
        channel_names=dict(dataset.channel_names),
        labels=dict(dataset.labels),
        num_training_cases=num_training,
        file_ending=FILE_ENDING,
        regions_class_order=dataset.regions_class_order,
        dataset_name=dataset.name,
        reference=dataset.reference or None,
        description=dataset.description or None,
        license=dataset.license,
        converted_by="nnunet_ssl convert",
        # how the voxels came about; nnU-Net ignores keys that it does not know
        nnunet_ssl={
            "label_codes": [{str(key): value for key, value in codes.items()} for codes in dataset.label_codes],
            **dataset.options,
        },
    )


def _same_request(staging: Path, target: Path, records: UnlabeledList) -> bool:
    """Whether `target` was made from the same cases with the same options; voxels are not compared."""
    try:
        present = UnlabeledList.load(target / "unlabeled.json")
        files = [
            [json.loads((folder / name).read_text(encoding="utf-8")) for name in ("dataset.json", "splits_final.json")]
            for folder in (staging, target)
        ]
    except (UserError, OSError, ValueError):
        # not one of our data sets, or a damaged one: in either case not the same
        return False

    def sources(part: Mapping[str, CaseRecord]) -> dict[str, str]:
        return {case_id: record.source for case_id, record in part.items()}

    return (
        files[0] == files[1]
        and present.groups == records.groups
        and all(
            sources(getattr(present, part)) == sources(getattr(records, part))
            for part in ("unlabeled", "labeled", "test")
        )
    )


def _convert_all(
    dataset: DatasetDescription,
    by_id: Mapping[str, Case],
    assignment: Assignment,
    reader: Reader,
    staging: Path,
    num_processes: int,
) -> dict[str, str]:
    """Convert every assigned case; returns the content hash by case id. UserError names all faulty cases."""
    jobs: list[tuple[Case, str, str | None]] = []
    for ids, images, labels in (
        ((*assignment.labeled, *assignment.validation), "imagesTr", "labelsTr"),
        (assignment.unlabeled, "imagesUn", None),
        (assignment.test, "imagesTs", "labelsTs"),
    ):
        for case_id in ids:
            case = by_id[case_id]
            jobs.append((case if labels else replace(case, label=None), images, labels))
    for folder in {folder for job in jobs for folder in job[1:] if folder}:
        (staging / folder).mkdir()

    convert = functools.partial(_convert_case, reader=reader, dataset=dataset, staging=staging)
    hashes: dict[str, str] = {}
    faults: list[str] = []
    empty: list[str] = []
    for index, (content, label_is_empty, fault) in run_in_processes(
        convert,
        jobs,
        num_processes,
        f"Converting to {dataset.folder_name}",
        show_progress=sys.stderr.isatty(),
        kept="nothing was written",
    ):
        case_id = jobs[index][0].case_id
        hashes[case_id] = content
        if fault:
            faults.append(fault)
        elif label_is_empty:
            empty.append(case_id)
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in sorted(faults)[:LISTED_FAULTS])
        more = f"\n  ... and {len(faults) - LISTED_FAULTS} more" if len(faults) > LISTED_FAULTS else ""
        raise UserError(f"{len(faults)} of {len(jobs)} cases cannot be converted; nothing was written.\n{listed}{more}")
    if empty:
        print(f"Warning: {len(empty)} label(s) without any foreground: {some(sorted(empty))}.")
    return hashes


def _convert_case(
    case: Case,
    images_folder: str,
    labels_folder: str | None,
    reader: Reader,
    dataset: DatasetDescription,
    staging: Path,
) -> tuple[str, bool, str]:
    """Read, check and write one case. Returns the content hash, whether the label is empty, and the fault or ''."""
    try:
        images, label = reader(case)
        check_images(case, images, label, dataset)
        if label is not None:
            label = map_label(case, label, dataset.label_codes)
    except UserError as error:
        return "", False, str(error)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return "", False, f"case {case.case_id} ({case.source}) cannot be read: {error}. Check the input."
    for channel, image in enumerate(images):
        write_image(image, staging / images_folder / f"{case.case_id}_{channel:04d}{FILE_ENDING}")
    if label is not None:
        write_image(label, staging / labels_folder / f"{case.case_id}{FILE_ENDING}")
    content = content_hash([sitk.GetArrayViewFromImage(image) for image in images])
    return content, label is not None and not sitk.GetArrayViewFromImage(label).any(), ""


def _report(
    dataset: DatasetDescription,
    assignment: Assignment,
    by_id: Mapping[str, Case],
    target: Path,
    split: Mapping[str, Sequence[str]],
) -> None:
    for part, folder in (
        ("labeled", "imagesTr, labelsTr"),
        ("validation", "imagesTr, labelsTr"),
        ("unlabeled", "imagesUn"),
        ("test", "imagesTs, labelsTs"),
    ):
        ids = getattr(assignment, part)
        print(f"{part:<10}  {len(ids):>5} cases of {len({by_id[i].patient for i in ids}):>5} patients   {folder}")
    without = [case_id for case_id in assignment.test if by_id[case_id].label is None]
    if without:
        print(f"{len(without)} test case(s) have no label and cannot be evaluated: {some(without, 5)}.")
    if assignment.validation:
        print(f"Fold 0 trains on the {len(split['train'])} labeled cases and validates on {len(split['val'])} others.")
    else:
        print(
            f"The protocol has no validation list: fold 0 trains on all {len(split['train'])} labeled cases and validates on the "
            "same cases. Compare methods on the test cases."
        )
    print(f"split hash  {split_hash(split)[:12]}")
    print(f"Written to {target}. Next: nnunet_ssl plan_and_preprocess -d {dataset.dataset_id}")
    from nnunetv2.paths import nnUNet_preprocessed

    if nnUNet_preprocessed.is_set() and (Path(str(nnUNet_preprocessed)) / dataset.folder_name).is_dir():
        print(
            f"Note: nnUNet_preprocessed/{dataset.folder_name} exists from an earlier conversion. Plan and preprocess again "
            "before training."
        )


def _report_identical(hashes: Mapping[str, str], dataset_id: int) -> None:
    """Name cases with the same voxels, as patient074 and patient076 of ACDC."""
    cases_of: dict[str, list[str]] = {}
    for case_id in sorted(hashes):
        cases_of.setdefault(hashes[case_id], []).append(case_id)
    identical = [" = ".join(cases) for cases in cases_of.values() if len(cases) > 1]
    if identical:
        print(
            f"Warning: {len(identical)} image(s) occur more than once, voxel for voxel: {some(identical)}. "
            f"`nnunet_ssl check -d {dataset_id}` tells whether one is on two sides of the split."
        )
