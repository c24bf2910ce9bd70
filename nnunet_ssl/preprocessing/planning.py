"""`nnunet_ssl plan_and_preprocess`: nnU-Net's own planning and preprocessing, then the unlabeled images.

nnU-Net redoes everything on every call. Here each step leaves a record of what it was made from, and is skipped, which is
said, while that has not changed: the fingerprint and the plans (labeled images, labels, planner and its options), the
labeled cases (plans and the same), the unlabeled cases (plans and their images).
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import shutil
from pathlib import Path

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, preprocessed_folder
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from nnunet_ssl.preprocessing.preprocessed import complete_cases, load_plans, prepare_lists, preprocessing_hash
from nnunet_ssl.preprocessing.unlabeled import preprocess_configurations
from nnunet_ssl.preprocessing.unpaired_masks import preprocess_masks

FORMAT = 1
DEFAULT_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}  # nnU-Net's; 4 for any other configuration


def _plan_and_preprocess(raw: RawDataset, args: argparse.Namespace) -> None:
    base = preprocessed_folder(raw.name)
    base.mkdir(parents=True, exist_ok=True)
    # reads every image that is new, so that a damaged one is named here and not in a worker of nnU-Net
    content = prepare_lists(raw, args.npfp, args.rehash, args.overwrite, not args.no_pbar)
    cases = _labeled_cases(raw, content, args)
    plans_name = _fingerprint_and_plans(raw, base, cases, args)
    if args.no_pp:
        return
    plans_manager = load_plans(raw.name, plans_name)
    configurations, processes = [], []
    for index, configuration in enumerate(args.c):
        if configuration not in plans_manager.available_configurations:
            print(f"{raw.name}: {plans_name} has no configuration {configuration}; it is skipped, as nnU-Net does.")
            continue
        configurations.append(configuration)
        if args.np is None:
            processes.append(DEFAULT_PROCESSES.get(configuration, 4))
        else:
            processes.append(args.np[index] if len(args.np) > 1 else args.np[0])
    if not configurations:
        raise UserError(
            f"{base / plans_name}.json has none of the configurations {', '.join(args.c)}. "
            f"Allowed: {', '.join(plans_manager.available_configurations)}."
        )
    for configuration, number in zip(configurations, processes):
        _preprocess_labeled(raw, base, plans_name, configuration, cases, number, args)
    preprocess_dense(raw, content, plans_name, configurations, processes, args)
    preprocess_masks(raw, plans_name, configurations, processes, args)
    preprocess_configurations(raw, content, plans_name, configurations, processes, args)


def _file_hash(file: str) -> str:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1024**2):
            digest.update(block)
    return digest.hexdigest()


def _labeled_cases(raw: RawDataset, content: UnlabeledList, args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Case -> content hash of its image and hash of its label file."""
    names = list(raw.labels)
    cases = {case: {"image": content.labeled[case].sha256} for case in names}
    jobs = [(raw.labels[case],) for case in names]
    for index, digest in run_in_processes(_file_hash, jobs, 1, "Hashing labels", not args.no_pbar):
        cases[names[index]]["label"] = digest
    return cases


def _load_record(file: Path) -> dict | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


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


def _find_class(kind: str, name: str) -> type:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    found = recursive_find_python_class(str(folder), name, current_module="nnunetv2.experiment_planning")
    if found is None:
        raise UserError(
            f"nnU-Net has no {kind} '{name}'. Planners are ExperimentPlanner, nnUNetPlannerResEncM, -L and -XL."
        )
    return found


def _fingerprint_and_plans(raw: RawDataset, base: Path, cases: dict, args: argparse.Namespace) -> str:
    """Make the fingerprint and the plans where they are missing or made from something else; returns the plans' name."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    dataset_id = convert_dataset_name_to_id(raw.name)
    planner = _find_class("planner", args.pl)
    _find_class("fingerprint extractor", args.fpe)
    plans_name = args.overwrite_plans_name or inspect.signature(planner.__init__).parameters["plans_name"].default
    plans_file, fingerprint_file = base / f"{plans_name}.json", base / "dataset_fingerprint.json"
    made_from = {"format": FORMAT, "cases": cases, "dataset_json": _planning_keys(raw.dataset_json)}

    fingerprint_record = base / "dataset_fingerprint_made_from.json"
    recorded = _load_record(fingerprint_record)
    wanted = {**made_from, "extractor": args.fpe}
    keep_fingerprint = fingerprint_file.is_file() and not args.clean
    if keep_fingerprint and recorded is None:
        # made by nnU-Net's own commands, which leave no record: the number of cases is all that can be compared
        found = len(json.loads(fingerprint_file.read_text(encoding="utf-8"))["spacings"])
        keep_fingerprint = found == len(cases)
        if keep_fingerprint:
            print(
                f"{fingerprint_file} was made by nnU-Net from {found} cases, as many as are labeled: taken as up to date."
            )
    elif keep_fingerprint:
        keep_fingerprint = recorded == wanted
        if not keep_fingerprint:
            print("The labeled cases or dataset.json have changed: fingerprint and plans are made anew.")
    if keep_fingerprint:
        print(f"{raw.name}: fingerprint is up to date, skipped. (--clean makes it anew.)")
        if args.verify_dataset_integrity:
            from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

            verify_dataset_integrity(str(raw.folder), args.npfp)
    else:
        fingerprint_record.unlink(missing_ok=True)
        extract_fingerprints(
            [dataset_id], args.fpe, args.npfp, args.verify_dataset_integrity, True, args.verbose, not args.no_pbar
        )
    write_json_atomically(wanted, fingerprint_record)

    plans_record = base / f"{plans_name}_made_from.json"
    options = {
        "planner": args.pl,
        "gpu_memory_target": args.gpu_memory_target,
        "preprocessor_name": args.preprocessor_name,
        "overwrite_target_spacing": args.overwrite_target_spacing and list(map(float, args.overwrite_target_spacing)),
    }
    recorded = _load_record(plans_record)
    wanted = {**made_from, **options}
    keep_plans = plans_file.is_file() and keep_fingerprint
    if keep_plans and recorded is None:
        used = json.loads(plans_file.read_text(encoding="utf-8"))["experiment_planner_used"]
        default = (None, "DefaultPreprocessor", None)
        keep_plans = used == args.pl and tuple(options.values())[1:] == default
    elif keep_plans:
        keep_plans = recorded == wanted
    if keep_plans:
        print(f"{raw.name}: {plans_file.name} is up to date, skipped. (--clean plans anew.)")
        # keys that planning does not read may have changed, and training reads the copy
        shutil.copy(raw.folder / "dataset.json", base / "dataset.json")
    else:
        plans_record.unlink(missing_ok=True)
        plan_experiments(
            [dataset_id],
            args.pl,
            args.gpu_memory_target,
            args.preprocessor_name,
            args.overwrite_target_spacing,
            args.overwrite_plans_name,
        )
    write_json_atomically(wanted, plans_record)
    return plans_name


def _preprocess_labeled(
    raw: RawDataset,
    base: Path,
    plans_name: str,
    configuration: str,
    cases: dict,
    num_processes: int,
    args: argparse.Namespace,
) -> None:
    """nnU-Net's preprocessing of the labeled cases, unless the folder is complete and made from the same."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    plans_manager = load_plans(raw.name, plans_name)
    configuration_manager = plans_manager.get_configuration(configuration)
    folder = base / configuration_manager.data_identifier
    record = base / f"{configuration_manager.data_identifier}_labeled.json"
    wanted = {
        "format": FORMAT,
        "preprocessing_hash": preprocessing_hash(plans_manager, configuration_manager),
        "dataset_json": _planning_keys(raw.dataset_json),
        "cases": cases,
    }
    ending = raw.dataset_json["file_ending"]
    truth = all((base / "gt_segmentations" / f"{case}{ending}").is_file() for case in cases)
    present = complete_cases(folder)
    if not args.clean and _load_record(record) == wanted and truth and present == set(cases):
        print(f"{raw.name}, {plans_name}, {configuration}: {len(cases)} labeled cases are up to date, skipped.")
        return
    if present and not args.clean:
        print(f"{folder.name} is incomplete or not known to be made with these plans and cases: it is made anew.")
    record.unlink(missing_ok=True)
    for case in cases:
        # nnU-Net copies labels only where the file is newer, and a corrected label need not be
        (base / "gt_segmentations" / f"{case}{ending}").unlink(missing_ok=True)
    dataset_id = convert_dataset_name_to_id(raw.name)
    preprocess([dataset_id], plans_name, [configuration], [num_processes], args.verbose, not args.no_pbar)
    write_json_atomically(wanted, record)
