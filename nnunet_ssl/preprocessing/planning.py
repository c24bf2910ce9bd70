"""`nnunet_ssl plan_and_preprocess`: nnU-Net's own planning and preprocessing, then the unlabeled images.

nnU-Net redoes everything on every call. Here each step leaves a record of what it was made from, and is skipped, which is
said, while that has not changed: the fingerprint and the plans (labeled images, labels, planner and its options), the
labeled cases (plans and the same), the unlabeled cases (plans and their images).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.atomic import copy_atomically, write_json_atomically
from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.json_files import expect, read_json
from nnunet_ssl.data.label_files import checked_label_files, misplaced_labels
from nnunet_ssl.data.list_update import prepare_lists
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, dataset_name
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError, listed
from nnunet_ssl.preprocessing.preprocessed import (
    complete_cases,
    get_configuration,
    load_plans,
    made_from,
    preprocessing_hash,
)
from nnunet_ssl.preprocessing.unlabeled import preprocess_rest

FORMAT = 1
FINGERPRINT_RECORD = "dataset_fingerprint_made_from.json"
OTHER_FILES = ("dataset", "dataset_fingerprint", "splits_final", "unlabeled")  # .json, beside the plans
# the record of what nnU-Net is writing, or was writing when it failed or was killed
UNFINISHED = {"format": FORMAT, "unfinished": True}
DEFAULT_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}  # nnU-Net's; 4 for any other configuration


@dataclass(frozen=True)
class Planning:
    """What nnU-Net is asked to plan; the fields are options of nnUNetv2_plan_and_preprocess.

    Attributes:
        planner, fingerprint_extractor, preprocessor: names of nnU-Net's classes.
        gpu_memory_target: in GB; None: the planner's own.
        target_spacing: of 3d_fullres, in mm; None: what the planner finds.
        plans_name: None: the planner's own.
    """

    planner: str = "ExperimentPlanner"
    fingerprint_extractor: str = "DatasetFingerprintExtractor"
    preprocessor: str = "DefaultPreprocessor"
    gpu_memory_target: float | None = None
    target_spacing: Sequence[float] | None = None
    plans_name: str | None = None


@dataclass(frozen=True)
class Manner:
    """How planning and preprocessing are done, whatever their result is.

    Attributes:
        processes_for_fingerprint: also for the hashes of images.
        verify: nnU-Net's check of the labeled cases.
        clean: do everything anew, also what is up to date.
        verbose: print what nnU-Net does.
    """

    processes_for_fingerprint: int = 8
    verify: bool = False
    clean: bool = False
    verbose: bool = False
    show_progress: bool = True


def plan_and_preprocess(
    raw: RawDataset,
    configurations: Sequence[str],
    planning: Planning,
    manner: Manner,
    *,
    num_processes: Sequence[int] | None = None,
    only_plan: bool = False,
    rehash: bool = False,
    overwrite: bool = False,
) -> None:
    """Fingerprint, plans, labeled cases and all that stock nnU-Net does not preprocess; what is up to date is skipped.

    Args:
        configurations: those that the plans do not have are skipped.
        num_processes: for preprocessing, one number or one per configuration; None: nnU-Net's defaults.
        rehash: do not trust the hashes in unlabeled.json.
        overwrite: replace a different splits_final.json of the preprocessed data set by that of the raw one.

    Raises:
        UserError: an image or label that cannot be used, unknown classes of nnU-Net, no configuration that the plans have, or one
            whose folder is not one of this data set.
    """
    _refuse_what_planning_lacks(raw)
    base = raw.preprocessed
    cases: dict[str, dict[str, str]] = {}

    def check_labels(content: UnlabeledList) -> None:
        cases.update(_labeled_cases(raw, content, base, manner))

    # reads every image and label map that is new, so that a damaged one is named here and not in a worker of nnU-Net
    content = prepare_lists(
        raw, manner.processes_for_fingerprint, rehash, overwrite, manner.show_progress, before_writing=check_labels
    )
    plans_name = _fingerprint_and_plans(raw, base, cases, planning, manner)
    if only_plan:
        return
    plans_manager = load_plans(raw.preprocessed, plans_name)
    present, processes = [], []
    for index, configuration in enumerate(configurations):
        if configuration not in plans_manager.available_configurations:
            print(f"{raw.name}: {plans_name} has no configuration {configuration}; it is skipped, as nnU-Net does.")
            continue
        get_configuration(plans_manager, configuration)  # all of them before nnU-Net deletes the first folder
        present.append(configuration)
        if num_processes is None:
            processes.append(DEFAULT_PROCESSES.get(configuration, 4))
        else:
            processes.append(num_processes[index] if len(num_processes) > 1 else num_processes[0])
    if not present:
        raise UserError(
            f"{base / plans_name}.json has none of the configurations {', '.join(configurations)}. "
            f"Allowed: {', '.join(plans_manager.available_configurations)}."
        )
    for configuration, number in zip(present, processes):
        _preprocess_labeled(raw, base, plans_name, configuration, cases, number, manner)
    preprocess_rest(raw, content, plans_name, present, processes, manner.verbose, manner.show_progress)


def _refuse_what_planning_lacks(raw: RawDataset) -> None:
    dataset_name(raw.id)  # nnU-Net's planner looks for the id, which a second data set may have
    file = raw.folder / "dataset.json"
    counted = raw.dataset_json.get("numTraining")
    expect(counted is not None, file, "numTraining", counted, f"{len(raw.labeled)}, the number of cases in imagesTr")
    values = [v for name, v in raw.dataset_json["labels"].items() if name != "ignore"]
    numbers = {code for value in values for code in (value if isinstance(value, list) else [value])}
    allowed = f"numbers without a gap, 0 to {len(numbers) - 1}, since the network has a channel for each"
    expect(numbers == set(range(len(numbers))), file, "labels", raw.dataset_json["labels"], allowed)


def _labeled_cases(raw: RawDataset, content: UnlabeledList, base: Path, manner: Manner) -> dict[str, dict[str, str]]:
    """Case -> hash of its image, geometry included, and hash of its label file.

    Raises:
        UserError: a label map of another shape; label maps that have changed since the last fingerprint and are damaged or hold
            other labels; all are named.
    """
    if places := misplaced_labels(raw):
        print(
            f"Warning: {len(places)} label map(s) lie elsewhere than their image, and are used all the same:\n{listed(places)}"
        )
    names = list(raw.labels)
    cases = {case: {"image": made_from(content.labeled[case].sha256, raw.geometry(case))} for case in names}
    jobs = [(raw.labels[case],) for case in names]
    for index, digest in run_in_processes(file_hash, jobs, 1, "Hashing labels", manner.show_progress):
        cases[names[index]]["label"] = digest
    known = (_load_record(base / FINGERPRINT_RECORD) or {}).get("cases", {})
    new = [case for case in names if known.get(case) != cases[case]]
    checked_label_files(
        raw,
        {case: raw.labels[case] for case in new},
        "label map",
        manner.processes_for_fingerprint,
        manner.show_progress,
        may_ignore=True,
    )
    return cases


def _load_record(file: Path) -> dict | None:
    try:
        record = read_json(file)
    except UserError:
        return None
    return record if record.get("format") == FORMAT else None


def _remove_if_half(file: Path) -> None:
    try:
        read_json(file)
    except UserError:
        file.unlink(missing_ok=True)


def _planning_keys(dataset_json: dict) -> dict:
    """What nnU-Net's fingerprint, planning and preprocessing read from dataset.json."""
    keys = (
        "channel_names",
        "modality",
        "labels",
        "regions_class_order",
        "file_ending",
        "numTraining",
        "overwrite_image_reader_writer",
    )
    return {key: dataset_json[key] for key in keys if key in dataset_json}


def _find_class(kind: str, name: str, package: str = "experiment_planning") -> type:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / package
    found = recursive_find_python_class(str(folder), name, current_module=f"nnunetv2.{package}")
    if not isinstance(found, type):
        raise UserError(
            f"nnU-Net has no {kind} '{name}'. Planners are ExperimentPlanner, nnUNetPlannerResEncM, -L and -XL; the fingerprint "
            "extractor is DatasetFingerprintExtractor, the preprocessor DefaultPreprocessor."
        )
    return found


def _fingerprint_and_plans(raw: RawDataset, base: Path, cases: dict, planning: Planning, manner: Manner) -> str:
    """Make the fingerprint and the plans where they are missing or made from something else; returns the plans' name."""
    made_from = {"format": FORMAT, "cases": cases, "dataset_json": _planning_keys(raw.dataset_json)}
    planner = _find_class("planner", planning.planner)
    _find_class("fingerprint extractor", planning.fingerprint_extractor)
    _find_class("preprocessor", planning.preprocessor, "preprocessing")
    plans_name = planning.plans_name or inspect.signature(planner.__init__).parameters["plans_name"].default
    if plans_name in OTHER_FILES or plans_name.endswith("_made_from"):
        raise UserError(
            f"-overwrite_plans_name {plans_name}: {base / plans_name}.json is another file of the data set. Give another name, "
            "nnUNetPlans_mine."
        )
    moved = _are_moved(base, plans_name)
    kept = _fingerprint(raw, base, made_from, planning.fingerprint_extractor, manner)
    _plans(raw, base, made_from, plans_name, planning, kept or moved)
    return plans_name


def _are_moved(base: Path, plans_name: str) -> bool:
    """Whether the plans are from another data set (nnUNetv2_move_plans_between_datasets): planning makes a fingerprint first."""
    files = (base / f"{plans_name}.json", base / "dataset_fingerprint.json", base / f"{plans_name}_made_from.json")
    moved = [file.is_file() for file in files] == [True, False, False]
    if moved:
        print(f"{files[0]} is there without a fingerprint: moved from another data set, and used as it is.")
    return moved


def _fingerprint(raw: RawDataset, base: Path, made_from: dict, extractor: str, manner: Manner) -> bool:
    """Whether the fingerprint was up to date; it is now."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints

    dataset_id = int(raw.id)
    file, record = base / "dataset_fingerprint.json", base / FINGERPRINT_RECORD
    recorded = _load_record(record)
    wanted = {**made_from, "extractor": extractor}
    keep = file.is_file() and not manner.clean
    if keep and recorded is None:
        # made by nnU-Net's own commands, which leave no record: the number of cases is all that can be compared
        spacings = read_json(file, remedy=f"Delete it and run `nnunet_ssl plan_and_preprocess -d {raw.id}`.").get(
            "spacings"
        )
        found = len(spacings) if isinstance(spacings, list) else 0
        keep = found == len(made_from["cases"])
        if keep:
            print(f"{file} was made by nnU-Net from {found} cases, as many as are labeled: taken as up to date.")
    elif keep:
        keep = recorded == wanted
        if recorded == UNFINISHED:
            print(f"{file.name} was not finished: it is made anew.")
        elif not keep:
            print("The labeled cases or dataset.json have changed: fingerprint and plans are made anew.")
    if keep:
        print(f"{raw.name}: fingerprint is up to date, skipped. (--clean makes it anew.)")
        if manner.verify:
            from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

            verify_dataset_integrity(str(raw.folder), manner.processes_for_fingerprint)
    else:
        write_json_atomically(UNFINISHED, record)
        extract_fingerprints(
            [dataset_id],
            extractor,
            min(manner.processes_for_fingerprint, len(raw.labeled)),  # nnU-Net starts all of them
            manner.verify,
            True,
            manner.verbose,
            manner.show_progress,
        )
    write_json_atomically(wanted, record)
    return keep


def _plans(raw: RawDataset, base: Path, made_from: dict, plans_name: str, planning: Planning, may_stay: bool) -> None:
    """Plan, unless the plans are there and were made from the same (`may_stay`: of the same fingerprint, or moved here)."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

    dataset_id = int(raw.id)
    file, record = base / f"{plans_name}.json", base / f"{plans_name}_made_from.json"
    options = {
        "planner": planning.planner,
        "gpu_memory_target": planning.gpu_memory_target,
        "preprocessor_name": planning.preprocessor,
        "overwrite_target_spacing": planning.target_spacing and list(planning.target_spacing),
    }
    recorded = _load_record(record)
    if recorded == UNFINISHED:
        _remove_if_half(file)  # nnU-Net's planner reads it
    wanted = {**made_from, **options}
    keep = file.is_file() and may_stay
    if keep and recorded is None:
        used = read_json(file, remedy="Delete it, and plan again.").get("experiment_planner_used")
        default = (None, "DefaultPreprocessor", None)
        keep = used == planning.planner and tuple(options.values())[1:] == default
    elif keep:
        keep = recorded == wanted
    if keep:
        print(f"{raw.name}: {file.name} is up to date, skipped. (--clean plans anew.)")
        # keys that planning does not read may have changed, and training reads the copy
        copy_atomically(raw.folder / "dataset.json", base / "dataset.json")
    else:
        if os.environ.get("nnUNet_n_proc_DA", "").strip() == "0":
            raise UserError(
                "nnUNet_n_proc_DA is 0: nnU-Net's trainings take it, but its planner asks for so many threads. Unset it, or set it "
                "to 1, to plan."
            )
        write_json_atomically(UNFINISHED, record)
        plan_experiments(
            [dataset_id],
            planning.planner,
            planning.gpu_memory_target,
            planning.preprocessor,
            planning.target_spacing,
            planning.plans_name,
        )
    write_json_atomically(wanted, record)


def _preprocess_labeled(
    raw: RawDataset,
    base: Path,
    plans_name: str,
    configuration: str,
    cases: dict,
    num_processes: int,
    manner: Manner,
) -> None:
    """nnU-Net's preprocessing of the labeled cases, unless the folder is complete and made from the same."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

    plans_manager = load_plans(raw.preprocessed, plans_name)
    configuration_manager = get_configuration(plans_manager, configuration)
    folder = base / configuration_manager.data_identifier
    record = base / f"{configuration_manager.data_identifier}_labeled.json"
    wanted = {
        "format": FORMAT,
        "preprocessing_hash": preprocessing_hash(plans_manager, configuration_manager),
        "dataset_json": _planning_keys(raw.dataset_json),
        "cases": cases,
    }
    ending = raw.file_ending
    truth = all((base / "gt_segmentations" / f"{case}{ending}").is_file() for case in cases)
    present = complete_cases(folder)
    if not manner.clean and _load_record(record) == wanted and truth and present == set(cases):
        print(f"{raw.name}, {plans_name}, {configuration}: {len(cases)} labeled cases are up to date, skipped.")
        return
    if present and not manner.clean:
        print(f"{folder.name} is incomplete or not known to be made with these plans and cases: it is made anew.")
    record.unlink(missing_ok=True)
    for case in cases:
        # nnU-Net copies labels only where the file is newer, and a corrected label need not be
        (base / "gt_segmentations" / f"{case}{ending}").unlink(missing_ok=True)
    dataset_id = int(raw.id)
    preprocess(
        [dataset_id],
        plans_name,
        [configuration],
        [min(num_processes, len(cases))],
        manner.verbose,
        manner.show_progress,
    )
    write_json_atomically(wanted, record)
