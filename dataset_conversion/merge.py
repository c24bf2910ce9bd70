"""`nnunet_ssl merge`: one data set from several whose cases annotate different classes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_ssl.data.derived import (
    case_ids,
    holds_images,
    read_label,
    refuse_faulty_cases,
    same_request,
    under_construction,
    write_label,
)
from nnunet_ssl.data.files import wrong_number_of_channels
from nnunet_ssl.data.geometry import other_axes
from nnunet_ssl.data.ownership import refuse_to_replace
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, check_same_grid, read_case
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import split_hash, write_splits
from nnunet_ssl.data.staging import recover, target_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash
from nnunet_ssl.dataset_conversion.merge_sources import (
    Source,
    check_sources,
    further_keys,
    load_map,
    make_dataset_json,
    read_sources,
)
from nnunet_ssl.dataset_conversion.report import identical_images
from nnunet_ssl.errors import UserError, some

DEFAULT_FOLDS = 5
SECTIONS = {"labeled": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
LABELS = {"labeled": "labelsTr", "test": "labelsTs"}


def merge_datasets(
    names: Sequence[str],
    dataset_id: int,
    name: str,
    *,
    map_file: Path | None = None,
    ignore: bool = False,
    num_folds: int = DEFAULT_FOLDS,
    num_processes: int = 8,
    overwrite: bool = False,
) -> Path:
    """Write `nnUNet_raw/DatasetXXX_Name` with the cases of several raw data sets, and print what it holds.

    Args:
        names: ids or names of the data sets to merge.
        dataset_id, name: of the data set to make, the name without `DatasetXXX_`.
        map_file: the common name of every class; None: every class keeps its name.
        ignore: whether the data set gets an ignore label, for classes that are not wanted.
        num_folds: number of folds in splits_final.json.

    Raises:
        UserError: data sets that cannot be one, a map that does not fit, faulty cases, an existing data set, a full disk.
    """
    target = target_folder(dataset_id, name, option="-o")
    if num_folds < 2 or num_processes < 1:
        raise UserError(f"-f {num_folds}, -np {num_processes}: allowed are 2 folds or more, and 1 process or more.")
    raws = [RawDataset.open(name_or_id) for name_or_id in names]
    check_sources(raws)
    if target.name in [raw.name for raw in raws]:
        raise UserError(f"-o {dataset_id}: {target.name} is one of the data sets to merge. Give a free id.")
    classes, sources = read_sources(raws, load_map(map_file), map_file, ignore)
    dataset_json = make_dataset_json(name, classes, sources, num_folds)
    stratified_folds(sources, _patients(sources), num_folds)  # too many folds are refused before anything is copied
    recover(target)
    if target.exists() and not overwrite:
        same = same_request(target, dataset_json, _case_ids(sources))
        if same and all(holds_images(source.raw, target, source.prefix) for source in sources):
            print(f"{target} already holds this merge; nothing is written. --overwrite merges again.")
            return target
        raise UserError(
            f"{target} exists and holds something else: data sets, their images or labels, patients, map or options differ. "
            "Allowed: a free id (-o), or --overwrite, which replaces the folder once the new one is complete."
        )
    if target.exists():
        refuse_to_replace(target, (file for raw in raws for file in raw.files()), "a free id with -o")
    with under_construction(target) as staging:
        records = _copy_cases(sources, dataset_json, staging, num_processes, target.name)
        splits = stratified_folds(sources, _one_patient_per_image(_patients(sources), records), num_folds)
        (staging / "dataset.json").write_text(json.dumps(dataset_json, indent=4) + "\n", encoding="utf-8")
        records.save(staging / LIST_FILE)
        write_splits(staging / SPLITS_FILE, splits, overwrite=False)
    _report(dataset_id, target, sources, dataset_json, records, splits)
    return target


# -------------------------------------------------------------------------------------------------------------- the files


def _case_ids(sources: Sequence[Source]) -> dict[str, set[str]]:
    """Folder -> the case ids of the merged data set."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for folder, cases in case_ids(source.raw, dense=()).items():
            found[folder] = found.get(folder, set()) | {source.prefix + case for case in cases}
    return found


def _copy_cases(
    sources: Sequence[Source], dataset_json: Mapping, staging: Path, num_processes: int, what: str
) -> UnlabeledList:
    """Copy images, rewrite label maps; the content of unlabeled.json. UserError names all faulty cases."""
    ending = dataset_json["file_ending"]
    records = UnlabeledList()
    jobs, places = [], []
    example = next(iter(sources[0].raw.labeled.values()))[0]
    for source in sources:
        for section, folder in SECTIONS.items():
            for case, images in source.raw.images(section).items():
                label = source.raw.label_files(section).get(case)
                name = source.prefix + case
                copies = [str(staging / folder / f"{name}_{i:04d}{ending}") for i in range(len(images))]
                new_label = str(staging / LABELS[section] / f"{name}{ending}") if label else None
                reader = source.raw.reader_writer_class
                files = (case, images, copies, label, new_label, dict(source.codes))
                jobs.append((*files, reader, source.raw.number_of_channels, example))
                places.append((section, source, case))
                for file in (copies[0], new_label):
                    if file is not None:
                        Path(file).parent.mkdir(exist_ok=True)
    faults = []
    for index, (digest, fault) in run_in_processes(
        _copy_case,
        jobs,
        num_processes,
        f"Merging into {what}",
        kept="nothing was written",
    ):
        section, source, case = places[index]
        name = source.prefix + case
        getattr(records, section)[name] = CaseRecord(f"{source.raw.name}/{SECTIONS[section]}/{case}", digest)
        if section != "labeled" and source.case_list is not None and case in source.case_list.groups:
            records.groups[name] = source.patient(case)
        faults.append(fault)
    refuse_faulty_cases(faults, len(jobs), "merged")
    return records


def _copy_case(
    case: str,
    images: Sequence[str],
    copies: Sequence[str],
    label: str | None,
    new_label: str | None,
    codes: Mapping[int, int],
    reader_writer_class: type,
    number_of_channels: int,
    example: str,
) -> tuple[str, str]:
    """`(content hash, "")` or `("", what is wrong)`."""
    try:
        voxels, _ = read_case(case, images, reader_writer_class)
        if problem := other_axes(case, images, example, reader_writer_class):
            return "", problem
        if len(voxels) != number_of_channels:
            return "", wrong_number_of_channels(case, images, len(voxels), number_of_channels)
        if label is not None:
            segmentation, properties = label_on_image(case, label, voxels.shape[1:], codes, reader_writer_class)
            check_same_grid(case, images[0], label, reader_writer_class)
    except UserError as error:
        return "", str(error)
    for image, copy in zip(images, copies, strict=True):
        shutil.copyfile(image, copy)
    if label is not None:
        merged = np.zeros(segmentation.shape, np.uint8 if max(codes.values()) < 256 else np.uint16)
        for own, common in codes.items():
            merged[segmentation == own] = common
        write_label(merged, Path(new_label), reader_writer_class, properties)
    return content_hash(voxels), ""


def label_on_image(
    case: str, file: str, shape: Sequence[int], codes: Collection[int], reader_writer_class: type
) -> tuple[np.ndarray, dict]:
    """A label map `(*spatial)` and its properties, checked.

    Raises:
        UserError: it cannot be read, has another shape than the image, or holds a label that is not in `codes`.
    """
    segmentation, properties = read_label(case, file, reader_writer_class, codes)
    if segmentation.shape != tuple(shape):
        raise UserError(f"case {case}: {file} has shape {segmentation.shape}, the image {tuple(shape)}. Correct it.")
    return segmentation, properties


# ----------------------------------------------------------------------------------------------------------------- splits


def _patients(sources: Sequence[Source]) -> dict[str, str]:
    """Labeled case -> patient, as the data sets have it."""
    return {source.prefix + case: source.patient(case) for source in sources for case in source.raw.labeled}


def _one_patient_per_image(patients: Mapping[str, str], records: UnlabeledList) -> dict[str, str]:
    """Labeled case -> patient, where patients that share an image, also of different data sets, are one; noted in `records`."""
    joined = {patient: patient for patient in patients.values()}

    def of(patient: str) -> str:
        while joined[patient] != patient:
            patient = joined[patient]
        return patient

    first: dict[str, str] = {}
    for case, patient in patients.items():
        joined[of(patient)] = of(first.setdefault(records.labeled[case].sha256, patient))
    found = {case: of(patient) for case, patient in patients.items()}
    records.groups |= {case: patient for case, patient in found.items() if patient != case}
    return found


def stratified_folds(
    sources: Sequence[Source], patient_of: Mapping[str, str], number: int
) -> list[dict[str, list[str]]]:
    """Folds in which every data set has its share of the validation cases, without cutting a patient apart.

    Per data set the patients are sorted by a hash of their name and dealt out. A data set with one patient is for training only,
    or its classes would be missing in a fold.

    Raises:
        UserError: there are not enough patients for so many folds.
    """
    fold_of: dict[str, int | None] = {}
    for offset, source in enumerate(sources):
        patients = {patient_of[source.prefix + case] for case in source.raw.labeled}
        order = sorted(patients, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())
        for index, patient in enumerate(order):
            fold_of.setdefault(patient, (index + offset) % number if len(order) > 1 else None)
    folds = [
        {
            "train": sorted(case for case, patient in patient_of.items() if fold_of[patient] != fold),
            "val": sorted(case for case, patient in patient_of.items() if fold_of[patient] == fold),
        }
        for fold in range(number)
    ]
    empty = [fold for fold, split in enumerate(folds) if not split["val"]]
    if empty:
        raise UserError(
            f"-f {number}: fold(s) {some(map(str, empty))} would have no validation case; there are "
            f"{sum(fold is not None for fold in fold_of.values())} patients to validate on. Ask for fewer folds."
        )
    return folds


def _report(
    dataset_id: int,
    target: Path,
    sources: Sequence[Source],
    dataset_json: Mapping,
    records: UnlabeledList,
    splits: Sequence[Mapping[str, Sequence[str]]],
) -> None:
    for source in sources:
        raw = source.raw
        print(
            f"{raw.name}: {len(raw.labeled)} labeled, {len(raw.unlabeled)} unlabeled, {len(raw.test)} test cases as "
            f"{source.prefix}*, annotates {', '.join(source.parts)}"
        )
        if (raw.folder / "labelsTr_dense").is_dir():
            print(
                f"{raw.name}: labelsTr_dense is left out. Dense labels of the merged data set would need the classes of all."
            )
        if unused := raw.unused_test_labels():
            print(f"{raw.name}: left out: {unused}.")
        if source.case_list is not None and any(source.case_list.hidden_labels.values()):
            print(
                f"{raw.name}: its hidden labels (`nnunet_ssl split`) are labels here. Hide them again with `nnunet_ssl split`."
            )
    if left_out := further_keys(sources)[1]:
        print(
            f"dataset.json: left out: {some(left_out)}, in which the data sets differ, or which name their files or labels."
        )
    print(f"labels: {', '.join(f'{label} {name}' for name, label in dataset_json['labels'].items())}")
    hashes = {case: record.sha256 for section in SECTIONS for case, record in getattr(records, section).items()}
    if identical := identical_images(hashes):
        print(
            f"Warning: {len(identical)} image(s) occur more than once, voxel for voxel: {some(identical)}. Labeled ones are on one "
            f"side of every fold; `nnunet_ssl check -d {dataset_id}` tells about the others."
        )
    for fold, split in enumerate(splits):
        print(
            f"fold {fold}: {len(split['train'])} training, {len(split['val'])} validation cases, {split_hash(split)[:12]}"
        )
    print(f"Written to {target}. Next: nnunet_ssl plan_and_preprocess -d {dataset_id}")
