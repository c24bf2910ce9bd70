"""Preprocessed cases beside nnU-Net's own: where they lie, what they were made with, and whether they are up to date.

The images of `imagesUn` go to `<data_identifier>_unlabeled`, a sibling of nnU-Net's own folder of labeled cases. (In that
folder they would become labeled background wherever nnU-Net takes every case it finds, as with `fold all`.) Beside it,
`<data_identifier>_unlabeled.json` says which cases are finished and what they were made with. Cases with dense labels for
validation lie in `<data_identifier>_dense` in the same way (see `dense_labels.py`), masks without images in
`<data_identifier>_masks` (see `unpaired_masks.py`), pseudo labels in a folder of their round (see `rounds.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.names import dataset_number, fault_of_name, plain_name
from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError

if TYPE_CHECKING:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

FORMAT = 1


def unlabeled_folder(
    preprocessed_dataset_folder_base: str | Path, configuration_manager: ConfigurationManager, kind: str = "unlabeled"
) -> str:
    """The folder of the preprocessed unlabeled (or `kind`) cases. UserError where the plans' identifier is no plain name."""
    identifier = plain_name(configuration_manager.data_identifier, "data_identifier in the plans")
    return os.path.join(preprocessed_dataset_folder_base, f"{identifier}_{kind}")


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
    number = dataset_number(base.name)
    command = f"Run `nnunet_ssl preprocess_unlabeled -d {number} -c {configuration} -p {plans_manager.plans_name}`."
    manifest = load_manifest(file)
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
    changed = [
        case for case in wanted if case in records and not is_made_from(manifest["cases"][case], records[case].sha256)
    ]
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


def load_plans(folder: Path, plans_name: str) -> PlansManager:
    """Plans in the preprocessed folder of a data set. UserError: there are none of this name; those that exist are named."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    file = folder / f"{plain_name(plans_name, '-p')}.json"
    again = f"Run `nnunet_ssl plan_and_preprocess -d {dataset_number(folder.name)}`, or name existing plans with -p."
    if not file.is_file():
        others = files_with_ending(folder, ".json").values()
        found = sorted(f.stem for f in others if b'"experiment_planner_used"' in f.read_bytes())
        raise UserError(f"{file} does not exist. Plans found: {', '.join(found) or 'none'}. {again}")
    return PlansManager(read_plans(file, again))


def get_configuration(plans_manager: PlansManager, configuration: str) -> ConfigurationManager:
    """A configuration of the plans.

    Raises:
        UserError: there is none of this name (the allowed ones are listed), or its data_identifier is no plain name.
    """
    if configuration not in plans_manager.available_configurations:
        raise UserError(
            f"plans {plans_manager.plans_name} of {plans_manager.dataset_name} have no configuration '{configuration}'. "
            f"Allowed: {', '.join(plans_manager.available_configurations)}."
        )
    found = plans_manager.get_configuration(configuration)
    # nnU-Net deletes the folder of this name before it preprocesses
    plain_name(found.data_identifier, f"plans {plans_manager.plans_name}, {configuration}, data_identifier")
    return found


def load_manifest(file: Path) -> dict | None:
    """Content of a manifest; None where it is missing or not one, which means that nothing is finished."""
    try:
        content = read_json(file)
    except UserError:
        return None
    keys = {"preprocessing_hash", "plans_name", "configuration", "cases"}
    if content.get("format") != FORMAT or not keys <= set(content):
        return None
    cases = content["cases"]
    # stale cases are deleted by these names
    if not isinstance(cases, dict) or any(fault_of_name(case) is not None for case in cases):
        return None
    if not all(isinstance(digest, str) for digest in cases.values()):
        return None
    return content


def made_from(*digests: str) -> str:
    """What a manifest says of a case: hashes of the image, of the label where it has one, and of the geometry, which comes last."""
    return "+".join(digests)


def is_made_from(found: str, *digests: str) -> bool:
    """Whether an entry of a manifest begins with these hashes. Training does not see the raw images, and so not their geometry."""
    return f"{found}+".startswith(f"{made_from(*digests)}+")


def complete_cases(folder: Path, images: bool = True) -> set[str]:
    """Cases with properties, image (unless `images` is False) and segmentation in nnU-Net's format (.b2nd, or .npz with both)."""
    files = set(os.listdir(folder)) if folder.is_dir() else set()
    cases = {file[: -len(".pkl")] for file in files if file.endswith(".pkl")}
    if not images:
        return {c for c in cases if f"{c}_seg.b2nd" in files}
    return {c for c in cases if {f"{c}.b2nd", f"{c}_seg.b2nd"} <= files or f"{c}.npz" in files}


def dataset_class_of(folder: str | Path, cases: Iterable[str]) -> type[nnUNetBaseDataset]:
    """nnU-Net's data set class that reads these complete cases; those of another folder may have another format."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

    has_blosc2 = all(Path(folder, f"{case}_seg.b2nd").is_file() for case in cases)
    return nnUNetDatasetBlosc2 if has_blosc2 else nnUNetDatasetNumpy
