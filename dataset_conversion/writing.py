"""The one way to write a data set in nnU-Net's raw format: checked cases, in worker processes, with a report."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.derived import refuse_faulty_cases
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.list_update import last_change
from nnunet_ssl.data.names import check_case_ids, check_ids_of_files
from nnunet_ssl.data.ownership import refuse_to_replace
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import DENSE_FOLDER
from nnunet_ssl.data.splits import patients_on_both_sides, write_splits
from nnunet_ssl.data.staging import (
    DISK_FULL,
    disk_message,
    put_in_place,
    recover,
    staging_folder,
    target_folder,
    write_image,
)
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash
from nnunet_ssl.dataset_conversion.case_lists import check_known
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription, DenseReader, Reader
from nnunet_ssl.dataset_conversion.reading import check_images, map_label
from nnunet_ssl.dataset_conversion.report import Converted, report_conversion, report_identical
from nnunet_ssl.errors import UserError, some

FILE_ENDING = ".nii.gz"


def write_dataset(
    dataset: DatasetDescription,
    cases: Sequence[Case],
    assignment: Assignment,
    reader: Reader,
    num_processes: int = 8,
    overwrite: bool = False,
    dense_reader: DenseReader | None = None,
) -> Path:
    """Write `nnUNet_raw/DatasetXXX_Name` with images, labels, dataset.json, unlabeled.json and splits_final.json.

    Cases that `assignment` does not name are left out. Every case is checked: channels and label share shape, spacing,
    origin and direction, voxels are finite, the label holds only codes of `label_codes`. All faulty cases are reported
    together. The data set is written to a hidden sibling and renamed when it is complete; an existing one is replaced
    only then, and only with `overwrite`. If the existing one is the result of the same request, nothing is written.

    The split has one fold: training on all labeled cases, validation on `assignment.validation`, or on the same labeled
    cases where the protocol has no validation list; or the folds that `assignment` gives.

    Where labels are sparse (`dataset.dense_label_codes`), labelsTr holds them, with what is not annotated as nnU-Net's
    ignore label; `labelsTr_dense` holds the dense masks of the same cases, as far as there are, for validation only; labelsTs
    is dense. A validation case without sparse label has its dense mask in both folders. At least one label must hold the
    code of what is not annotated: otherwise the labels are dense or the code is wrong.

    Args:
        dense_reader: reads the masks of the cases that have one (`Case.dense`).

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
        folds = assignment.folds or (
            {"train": sorted(assignment.labeled), "val": sorted(assignment.validation or assignment.labeled)},
        )
        write_splits(staging / "splits_final.json", folds, overwrite=False)
        if target.exists():
            same = _same_request(staging, target, records)
            if same and not overwrite:
                print(
                    f"{target} already holds this conversion ({number} cases); nothing is written. "
                    "--overwrite converts again."
                )
                if changed := _changed_since(target, _jobs(dataset, by_id, assignment)):
                    print(
                        f"Warning: {len(changed)} file(s) of the input have changed since: {some(changed, 3)}. The data set holds "
                        "what they held then."
                    )
                return target
            if not overwrite:
                raise UserError(
                    f"{target} exists and holds another conversion: cases, labels, options or split differ. Allowed: a free id "
                    "(-d), or --overwrite, which replaces the folder once the new one is complete."
                )
            refuse_to_replace(target, _input_files(cases), "a free id with -d")
        results = _convert_all(dataset, by_id, assignment, reader, dense_reader, staging, num_processes)
        for case_id, record in [*records.unlabeled.items(), *records.labeled.items(), *records.test.items()]:
            record.sha256 = results[case_id].content
        records.save(staging / "unlabeled.json")
        put_in_place(staging, target)
    except OSError as error:
        raise UserError(disk_message(error, target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    report_conversion(dataset, assignment, by_id, target, folds, results)
    report_identical({case_id: result.content for case_id, result in results.items()}, dataset.dataset_id)
    return target


# ----------------------------------------------------------------------------------------------------------- the request


def _check_cases(cases: Sequence[Case]) -> dict[str, Case]:
    """The cases by id. UserError: an id occurs twice, or looks like a channel of nnU-Net."""
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
    check_case_ids(by_id, "the cases of the input (-i)")
    check_ids_of_files(by_id, FILE_ENDING, "the cases of the input (-i)")
    return by_id


def _input_files(cases: Iterable[Case]) -> list[Path]:
    return [Path(file) for case in cases for file in (*case.images, case.label, case.dense) if file is not None]


def _changed_since(target: Path, jobs: Iterable[_Job]) -> list[str]:
    """Files that are read, and have been written or put there after the data set was."""
    written = (target / "dataset.json").stat().st_mtime_ns
    files = sorted(set(map(str, _input_files(job.case for job in jobs))))
    return [file for file in files if Path(file).is_file() and last_change(file) > written]


def _check_assignment(assignment: Assignment, by_id: Mapping[str, Case]) -> None:
    """UserError: cases that do not exist, lack a label or are on two sides; patients that are cut apart; no labeled case."""
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
        without = [
            case_id
            for case_id in parts[part]
            if by_id[case_id].label is None and (part == "labeled" or by_id[case_id].dense is None)
        ]
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
    groups = {case_id: case.patient for case_id, case in by_id.items()}
    for number, fold in enumerate(assignment.folds):
        check_known((*fold["train"], *fold["val"]), (*parts["labeled"], *parts["validation"]), f"fold {number}")
        if both := patients_on_both_sides(fold["train"], fold["val"], groups):
            raise UserError(f"fold {number} cuts the patient(s) {some(both)} apart. A patient belongs to one side.")


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

    codes: dict[str, list] = {"label_codes": _text_keys(dataset.label_codes)}
    if dataset.dense_label_codes:
        codes["dense_label_codes"] = _text_keys(dataset.dense_label_codes)

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
        nnunet_ssl={**codes, **dataset.options},
    )


def _text_keys(codes: Iterable[Mapping[int, int]]) -> list[dict[str, int]]:
    """Mappings of codes as JSON has them."""
    return [{str(code): label for code, label in mapping.items()} for mapping in codes]


def _same_request(staging: Path, target: Path, records: UnlabeledList) -> bool:
    """Whether `target` was made from the same cases with the same options; voxels are not compared."""
    try:
        present = UnlabeledList.load(target / "unlabeled.json")
        files = [
            [read_json(folder / "dataset.json"), read_json(folder / "splits_final.json", list)]
            for folder in (staging, target)
        ]
    except UserError:
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


# ------------------------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class _Job:
    """A case whose `label` and `dense` are None unless they are to be read, and the folders they are written to."""

    case: Case
    images_folder: str
    label_folder: str = ""
    dense_folders: tuple[str, ...] = ()


def _jobs(dataset: DatasetDescription, by_id: Mapping[str, Case], assignment: Assignment) -> list[_Job]:
    sparse = dataset.ignore_label is not None
    jobs = []
    for case_id in (*assignment.labeled, *assignment.validation):
        case = by_id[case_id]
        both = ("labelsTr", DENSE_FOLDER) if case.label is None else (DENSE_FOLDER,)
        jobs.append(_Job(case, "imagesTr", "labelsTr", both if sparse else ()))
    for case_id in assignment.unlabeled:
        jobs.append(_Job(replace(by_id[case_id], label=None, dense=None), "imagesUn"))
    for case_id in assignment.test:
        case = by_id[case_id]
        jobs.append(
            _Job(replace(case, label=None), "imagesTs", dense_folders=("labelsTs",))
            if sparse
            else _Job(case, "imagesTs", "labelsTs")
        )
    return jobs


def _convert_all(
    dataset: DatasetDescription,
    by_id: Mapping[str, Case],
    assignment: Assignment,
    reader: Reader,
    dense_reader: DenseReader | None,
    staging: Path,
    num_processes: int,
) -> dict[str, Converted]:
    """Convert every assigned case; returns the results by case id. UserError names all faulty cases."""
    jobs = _jobs(dataset, by_id, assignment)
    folders = {job.images_folder for job in jobs} | {job.label_folder for job in jobs if job.label_folder}
    # a data set without any dense mask has no empty folder for them
    folders |= {
        folder for job in jobs if job.case.dense or "labelsTs" in job.dense_folders for folder in job.dense_folders
    }
    for folder in folders:
        (staging / folder).mkdir()

    convert = functools.partial(
        _convert_case, reader=reader, dense_reader=dense_reader, dataset=dataset, staging=staging
    )
    results: dict[str, Converted] = {}
    for index, result in run_in_processes(
        convert,
        [(job,) for job in jobs],
        num_processes,
        f"Converting to {dataset.folder_name}",
        kept="nothing was written",
    ):
        results[jobs[index].case.case_id] = result
    refuse_faulty_cases((result.fault for result in results.values()), len(jobs), "converted")
    if empty := sorted(case_id for case_id, result in results.items() if result.empty):
        print(f"Warning: {len(empty)} label(s) without any foreground: {some(empty)}.")
    if dataset.ignore_label is not None:
        _check_sparse(dataset, results)
    return results


def _convert_case(
    job: _Job,
    reader: Reader,
    dense_reader: DenseReader | None,
    dataset: DatasetDescription,
    staging: Path,
) -> Converted:
    """Read, check and write one case."""
    case, ignore = job.case, dataset.ignore_label
    try:
        images, label = reader(case)
        dense = dense_reader(case) if case.dense is not None else None
        names = ("label",) if ignore is None else (f"label {case.label}", f"dense mask {case.dense}")
        check_images(case, images, dict(zip(names, (label, dense))), dataset)
        if label is not None:
            label = map_label(case, case.label, label, dataset.label_codes)
        if dense is not None:
            dense = map_label(case, case.dense, dense, dataset.dense_label_codes)
    except UserError as error:
        return Converted(fault=str(error))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return Converted(fault=f"case {case.case_id} ({case.source}) cannot be read: {error}. Check the input.")
    for channel, image in enumerate(images):
        write_image(image, staging / job.images_folder / f"{case.case_id}_{channel:04d}{FILE_ENDING}")
    if label is not None:
        write_image(label, staging / job.label_folder / f"{case.case_id}{FILE_ENDING}")
    if dense is not None:
        for folder in job.dense_folders:
            write_image(dense, staging / folder / f"{case.case_id}{FILE_ENDING}")
    content = content_hash([sitk.GetArrayViewFromImage(image) for image in images])
    written = label if label is not None else dense
    if written is None:
        return Converted(content)
    values = sitk.GetArrayViewFromImage(written)
    annotated = values != ignore if ignore is not None else np.ones_like(values, dtype=bool)
    empty = not values[annotated].any()
    if label is None or ignore is None:
        return Converted(content, empty=empty)
    differing = int((values != sitk.GetArrayViewFromImage(dense))[annotated].sum()) if dense is not None else None
    return Converted(content, "", empty, values.size, int(annotated.sum()), differing)


def _check_sparse(dataset: DatasetDescription, results: Mapping[str, Converted]) -> None:
    """UserError if every label is annotated throughout; a warning names those without any annotation."""
    sparse = {case_id: result for case_id, result in results.items() if result.voxels}
    if all(result.annotated == result.voxels for result in sparse.values()):
        codes = {
            code for codes in dataset.label_codes for code, value in codes.items() if value == dataset.ignore_label
        }
        raise UserError(
            f"none of the {len(sparse)} sparse labels has a voxel of the code {some(map(str, sorted(codes)))}, which marks what "
            "is not annotated; nothing was written. Either the labels are dense, or another code marks it: look into the "
            "files and give that code, or convert them as dense labels."
        )
    if nothing := sorted(case_id for case_id, result in sparse.items() if not result.annotated):
        print(f"Warning: {len(nothing)} label(s) without any annotated voxel: {some(nothing)}.")
