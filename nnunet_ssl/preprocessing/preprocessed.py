"""Preprocessed cases beside nnU-Net's own: where they lie, what they were made with, making them, and checking them.

The images of `imagesUn` go to `<data_identifier>_unlabeled`, a sibling of nnU-Net's own folder of labeled cases. (In that
folder they would become labeled background wherever nnU-Net takes every case it finds, as with `fold all`.) Beside it,
`<data_identifier>_unlabeled.json` says which cases are finished and what they were made with. Cases with dense labels for
validation lie in `<data_identifier>_dense` in the same way (see `dense_labels.py`), masks without images in
`<data_identifier>_masks` (see `unpaired_masks.py`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.files import damaged_file, explain_reading_error, wrong_number_of_channels
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, dataset_name, preprocessed_folder, save_list, update_list
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import copy_splits_to_preprocessed, load_splits
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

FORMAT = 1
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE_SPACE = 16 * 1024**2  # bytes; below this much free space a failed write is put down to a full disk


def unlabeled_folder(
    preprocessed_dataset_folder_base: str | Path, configuration_manager: ConfigurationManager, kind: str = "unlabeled"
) -> str:
    """The folder of the preprocessed unlabeled (or `kind`) cases; nothing but case files may lie in it."""
    return os.path.join(preprocessed_dataset_folder_base, f"{configuration_manager.data_identifier}_{kind}")


def manifest_file(
    preprocessed_dataset_folder_base: str | Path, configuration_manager: ConfigurationManager, kind: str = "unlabeled"
) -> str:
    """The file beside the folder that names the finished cases and what they were made with."""
    return unlabeled_folder(preprocessed_dataset_folder_base, configuration_manager, kind) + ".json"


def preprocessing_hash(plans_manager: PlansManager, configuration_manager: ConfigurationManager) -> str:
    """SHA-256 of everything in the plans that preprocessing depends on.

    Spacing, transpose, normalization and its masks, foreground intensities, preprocessor, resampling and reader. Patch and
    batch size, network and names do not enter: plans that differ only there share their preprocessed data.
    """
    configuration = configuration_manager.configuration
    content = {
        "spacing": configuration["spacing"],
        "transpose_forward": plans_manager.transpose_forward,
        "normalization_schemes": configuration["normalization_schemes"],
        "use_mask_for_norm": configuration["use_mask_for_norm"],
        "foreground_intensity_properties": plans_manager.foreground_intensity_properties_per_channel,
        "preprocessor_name": configuration["preprocessor_name"],
        "resampling": {
            key: configuration.get(key)
            for name in ("data", "seg")
            for key in (f"resampling_fn_{name}", f"resampling_fn_{name}_kwargs")
        },
        "image_reader_writer": plans_manager.plans["image_reader_writer"],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify_unlabeled(
    preprocessed_dataset_folder_base: str | Path,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    wanted_cases: Iterable[str],
) -> None:
    """Check that `wanted_cases` (cases of `imagesUn`) are preprocessed with these plans and from the listed images.

    Raises:
        UserError: the folder is missing, stale (made with other plans, or from an image that has changed) or unfinished.
            The message names the command that repairs it.
    """
    base = Path(preprocessed_dataset_folder_base)
    wanted = sorted(wanted_cases)
    if not wanted:
        return
    folder = Path(unlabeled_folder(base, configuration_manager))
    file = Path(manifest_file(base, configuration_manager))
    configuration = configuration_name(plans_manager, configuration_manager)
    command = (
        f"Run `nnunet_ssl preprocess_unlabeled -d {base.name[7:10]} -c {configuration} -p {plans_manager.plans_name}`."
    )
    manifest = _load_manifest(file)
    if manifest is None or not folder.is_dir():
        raise UserError(
            f"{folder} does not exist or has no manifest: the unlabeled images are not preprocessed. {command}"
        )
    expected = preprocessing_hash(plans_manager, configuration_manager)
    if manifest["preprocessing_hash"] != expected:
        raise UserError(
            f"{folder} is stale: it was made with {manifest['plans_name']}, {manifest['configuration']} (preprocessing "
            f"{manifest['preprocessing_hash'][:12]}), and the plans now ask for {expected[:12]}. {command}"
        )
    present = complete_cases(folder)
    missing = [case for case in wanted if case not in manifest["cases"] or case not in present]
    if missing:
        raise UserError(
            f"{folder} is unfinished: {len(missing)} of {len(wanted)} unlabeled cases are missing, such as {missing[0]}. "
            f"{command}"
        )
    list_file = base / LIST_FILE
    records = UnlabeledList.load(list_file).unlabeled if list_file.is_file() else {}
    changed = [case for case in wanted if case in records and records[case].sha256 != manifest["cases"][case]]
    if changed:
        raise UserError(
            f"{folder} is stale: the images of {len(changed)} unlabeled cases, such as {changed[0]}, have changed since "
            f"they were preprocessed. {command}"
        )


def configuration_name(plans_manager: PlansManager, configuration_manager: ConfigurationManager) -> str:
    """The name under which the plans hold this configuration, else one that shares its preprocessed data."""
    names = plans_manager.available_configurations
    for name in names:
        if plans_manager.get_configuration(name).configuration == configuration_manager.configuration:
            return name
    shared = [
        name
        for name in names
        if plans_manager.get_configuration(name).data_identifier == configuration_manager.data_identifier
    ]
    return shared[0] if shared else configuration_manager.data_identifier


def load_plans(name: str, plans_name: str) -> PlansManager:
    """The plans of a data set; UserError naming the file and the plans that exist when they are missing."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = preprocessed_folder(name)
    file = folder / f"{plans_name}.json"
    if not file.is_file():
        found = sorted(
            f.stem for f in folder.glob("*.json") if '"experiment_planner_used"' in f.read_text(encoding="utf-8")
        )
        raise UserError(
            f"{file} does not exist. Plans found: {', '.join(found) or 'none'}. "
            f"Run `nnunet_ssl plan_and_preprocess -d {name[7:10]}`, or name existing plans with -p."
        )
    return PlansManager(str(file))


def get_configuration(plans_manager: PlansManager, configuration: str) -> ConfigurationManager:
    """A configuration of the plans; UserError that lists the allowed names when there is none of this name."""
    if configuration not in plans_manager.available_configurations:
        raise UserError(
            f"plans {plans_manager.plans_name} of {plans_manager.dataset_name} have no configuration '{configuration}'. "
            f"Allowed: {', '.join(plans_manager.available_configurations)}."
        )
    return plans_manager.get_configuration(configuration)


def _load_manifest(file: Path) -> dict | None:
    """Content of a manifest; None where it is missing or not one, which means that nothing is finished."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    keys = {"preprocessing_hash", "plans_name", "configuration", "cases"}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not keys <= set(content):
        return None
    return content


def complete_cases(folder: Path) -> set[str]:
    """Cases with properties, image and segmentation in nnU-Net's format (.b2nd, or .npz with both)."""
    files = set(os.listdir(folder)) if folder.is_dir() else set()
    cases = {file[: -len(".pkl")] for file in files if file.endswith(".pkl")}
    return {c for c in cases if {f"{c}.b2nd", f"{c}_seg.b2nd"} <= files or f"{c}.npz" in files}


def _case_of(file: str) -> str:
    for ending in ("_seg.b2nd", "_seg.npy", ".b2nd", ".npz", ".npy", ".pkl"):
        if file.endswith(ending):
            return file[: -len(ending)]
    return file


def _remove_cases(folder: Path, keep: set[str]) -> None:
    """Delete the files of all cases but `keep`, properties first, so that a half-deleted case is not complete."""
    for file in sorted(os.listdir(folder), key=lambda name: not name.endswith(".pkl")):
        # a case may be called `x_seg`: its image is then no segmentation of `x`
        if _case_of(file) not in keep and not (file.endswith(".b2nd") and file[: -len(".b2nd")] in keep):
            os.unlink(folder / file)


def _for_label_maps(preprocessor_class: type) -> type:
    """The preprocessor for label maps without an image: a constant image, of which nothing is cropped."""

    class LabelMapPreprocessor(preprocessor_class):
        def run_case(self, image_files, seg_file, plans_manager, configuration_manager, dataset_json):
            segmentation, properties = plans_manager.image_reader_writer_class().read_seg(seg_file)
            channels = len(configuration_manager.normalization_schemes)
            image = np.ones((channels, *segmentation.shape[1:]), np.float32)
            return self.run_case_npy(
                image, segmentation, properties, plans_manager, configuration_manager, dataset_json
            )

    return LabelMapPreprocessor


def _preprocess_case(
    case: str,
    image_files: list[str],
    label_file: str | None,
    folder: str,
    scratch: str,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    dataset_json: dict,
    verbose: bool,
) -> tuple[str, bool]:
    """Preprocess one case into `scratch/<case>` and move it to `folder`. Returns (what is wrong or "", disk is full)."""
    own = Path(scratch) / case
    files = image_files or [label_file]
    problem = damaged_file(case, files)
    if problem is not None:
        return problem, False
    try:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        preprocessor_class = configuration_manager.preprocessor_class
        preprocessor = (preprocessor_class if image_files else _for_label_maps(preprocessor_class))(verbose=verbose)
        preprocessor.run_case_save(
            str(own / case), image_files, label_file, plans_manager, configuration_manager, dataset_json
        )
        channels = _stored_channels(own, case)
        expected = len(configuration_manager.normalization_schemes)
        if channels != expected:
            return wrong_number_of_channels(case, image_files, channels, expected), False
        # the properties go last: a case whose move was interrupted is not complete
        for file in sorted(own.iterdir(), key=lambda file: file.suffix == ".pkl"):
            os.replace(file, Path(folder) / file.name)
        return "", False
    except Exception as error:  # one bad case must not cost the others; what happened is reported for each of them
        full = isinstance(error, OSError) and error.errno in _NO_SPACE
        problem = None if full else explain_reading_error(case, files, plans_manager.image_reader_writer_class)
        if problem is not None:
            return problem, False
        free = shutil.disk_usage(folder).free
        if full or free < _LITTLE_SPACE:
            return (
                f"case {case}: it could not be written to {folder} ({free // 1024**2} MiB are free there). Free some "
                "space and run the command again; what is finished is kept.",
                True,
            )
        return f"case {case} ({', '.join(files)}): {type(error).__name__}: {error}", False
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _stored_channels(folder: Path, case: str) -> int:
    """Number of channels of the image that was written; raises where it cannot be read back."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    image = infer_dataset_class(str(folder))(str(folder), [case]).load_case(case)[0]
    # the last voxel too: a write that was cut short is noticed here and not while training
    image[(slice(-1, None),) * len(image.shape)]
    return int(image.shape[0])


def preprocess_unlabeled(
    name_or_id: str | int,
    plans_name: str,
    configuration: str,
    num_processes: int,
    *,
    cases: Mapping[str, list[str]],
    hashes: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
    kind: str = "unlabeled",
    verbose: bool = False,
    show_progress: bool = True,
) -> dict[str, list[str]]:
    """Preprocess unlabeled cases with the preprocessor of the plans; only what is missing is done.

    Each case is written to a temporary sibling folder and moved when it is complete, and the manifest is rewritten as
    cases finish: a run that was killed costs the unfinished cases only. A folder made with other plans is made anew.

    Args:
        cases: case id -> channel files, everything the folder shall hold; cases of the folder not named here are removed. A
            case without channel files is a label map alone.
        hashes: case id -> hash of what it is made from; a case whose hash has changed is redone.
        labels: case id -> label file, for cases that have one.
        kind: "unlabeled", "dense" or "masks", the end of the folder's name.

    Returns:
        The ids of the cases under the keys `done`, `kept` and `removed`.

    Raises:
        UserError: images that cannot be read, a wrong number of channels, a full disk, a background process that died.
            The case and the file are named; the other cases are kept.
    """
    name = dataset_name(name_or_id)
    plans_manager = load_plans(name, plans_name)
    configuration_manager = get_configuration(plans_manager, configuration)
    base = preprocessed_folder(name)
    dataset_json = json.loads((base / "dataset.json").read_text(encoding="utf-8"))
    folder = Path(unlabeled_folder(base, configuration_manager, kind))
    scratch = Path(f"{folder}.unfinished")
    file = Path(manifest_file(base, configuration_manager, kind))
    labels = labels or {}
    expected = preprocessing_hash(plans_manager, configuration_manager)

    manifest = _load_manifest(file)
    if manifest is not None and manifest["preprocessing_hash"] != expected:
        print(
            f"{folder.name} is stale: made with {manifest['plans_name']}, {manifest['configuration']} (preprocessing "
            f"{manifest['preprocessing_hash'][:12]}), the plans now ask for {expected[:12]}. Every case is done again."
        )
        manifest = None
    finished = dict(manifest["cases"]) if manifest else {}
    complete = complete_cases(folder)
    removed = sorted({*finished, *complete} - set(cases))
    kept = sorted(c for c in cases if finished.get(c) == hashes[c] and c in complete)
    finished = {case: hashes[case] for case in kept}

    def write_manifest() -> None:
        content = {
            "format": FORMAT,
            "preprocessing_hash": expected,
            "plans_name": plans_name,
            "configuration": configuration,
            "cases": finished,
        }
        write_json_atomically(content, file)

    # in this order: files of a case that the manifest does not name are never trusted
    write_manifest()
    folder.mkdir(exist_ok=True)
    _remove_cases(folder, set(kept))
    shutil.rmtree(scratch, ignore_errors=True)

    todo = [case for case in sorted(cases) if case not in finished]
    jobs = [
        (
            c,
            cases[c],
            labels.get(c),
            str(folder),
            str(scratch),
            plans_manager,
            configuration_manager,
            dataset_json,
            verbose,
        )
        for c in todo
    ]
    description = f"Preprocessing {kind}, {configuration}"
    problems = []
    try:
        for index, (problem, full) in run_in_processes(
            _preprocess_case, jobs, num_processes, description, show_progress
        ):
            if full:
                raise UserError(problem)  # the other cases would fail too
            if problem:
                problems.append(problem)
                continue
            finished[todo[index]] = hashes[todo[index]]
            write_manifest()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if problems:
        raise UserError(
            f"{len(problems)} of {len(cases)} {kind} cases failed, {len(finished)} are finished and kept:\n"
            + "\n".join(sorted(problems))
        )
    return {"done": todo, "kept": kept, "removed": removed}


def prepare_lists(
    raw: RawDataset, num_processes: int, rehash: bool, overwrite: bool, show_progress: bool = True
) -> UnlabeledList:
    """Bring `splits_final.json` and `unlabeled.json` of `nnUNet_preprocessed` up to date with the raw data set.

    Hidden labels belong to a split. Where the split that is now in force trains or validates on a case whose label was
    hidden, the hidden labels are dropped, which is said.

    Raises:
        UserError: see `copy_splits_to_preprocessed` and `update_list`.
    """
    splits_file = copy_splits_to_preprocessed(raw.name, overwrite) or raw.preprocessed / SPLITS_FILE
    content = update_list(raw, num_processes, rehash, show_progress)
    if splits_file.is_file() and content.hidden_labels:
        splits = load_splits(splits_file)
        in_use = {str(fold): {*split["train"], *split["val"]} for fold, split in enumerate(splits)}
        clash = [f for f, hidden in content.hidden_labels.items() if f not in in_use or in_use[f] & set(hidden)]
        if clash:
            print(
                f"The hidden labels of fold(s) {', '.join(clash)} belong to another split than {splits_file} and are "
                f"dropped. Run `nnunet_ssl split -d {raw.name[7:10]} --labeled ...` to hide labels again."
            )
            content.hidden_labels = {}
            save_list(content, raw.name)
    elif not splits_file.is_file():
        print(
            f"{splits_file} does not exist. nnU-Net would make a random split on its own, by case and not by patient. "
            f"Write one with `nnunet_ssl split -d {raw.name[7:10]} --labeled ...`."
        )
    return content
