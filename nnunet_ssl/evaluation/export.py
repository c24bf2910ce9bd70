"""`nnunet_ssl export`: a model that stock nnU-Net loads without this package.

nnU-Net looks up the trainer that a checkpoint names when it predicts. The exported copy names `nnUNetTrainer` instead, the
way nnU-Net documents for sharing models of other trainers, and leaves out what only training with this package needs.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from nnunet_ssl.data.derived import under_construction
from nnunet_ssl.data.ownership import refuse_to_replace
from nnunet_ssl.data.raw_dataset import load_dataset_json
from nnunet_ssl.data.staging import recover
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.models import AGAIN, load_model, read_checkpoint, write_torch
from nnunet_ssl.preprocessing.preprocessed import get_configuration, read_plans

STOCK_TRAINER = "nnUNetTrainer"
DEFAULT_CHECKPOINT = "checkpoint_final.pth"
PROVENANCE_FILE = "exported_from.json"
_REQUIRED_FILES = ("plans.json", "dataset.json")
_OPTIONAL_FILES = ("dataset_fingerprint.json",)


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """`nnUNet_results/<data set>/<trainer>__<plans>__<configuration>`, which exists.

    Raises:
        UserError: unknown data set, nnUNet_results not set, or nothing was trained under this name.
    """
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    from nnunet_ssl.data.raw_dataset import dataset_name

    name = dataset_name(dataset)
    try:
        folder = Path(get_output_folder(name, trainer, plans, configuration))
    except RuntimeError as error:
        raise UserError(str(error)) from error
    if not folder.is_dir():
        trained = sorted(f.name for f in folder.parent.glob("*__*__*") if f.is_dir())
        raise UserError(
            f"{folder} does not exist. Trained on {name}: {', '.join(trained) or 'nothing'}. "
            f"Train with `nnUNetv2_train {name} {configuration} FOLD -tr {trainer} -p {plans}`."
        )
    return folder


def checkpoint_files(folder: Path, folds: list[str] | None, checkpoint: str) -> dict[str, Path]:
    """Fold ("0", "all") -> its checkpoint below `folder`. `folds=None`: every fold that has one."""
    found = {file.parent.name[len("fold_") :]: file for file in sorted(folder.glob(f"fold_*/{checkpoint}"))}
    present = sorted(str(file.relative_to(folder)) for file in folder.glob("fold_*/*.pth"))
    if folds is None:
        missing = [] if found else [str(folder / "fold_X" / checkpoint)]
    else:
        missing = [str(folder / f"fold_{fold}" / checkpoint) for fold in folds if fold not in found]
    if missing:
        raise UserError(
            f"missing: {', '.join(missing)}. Checkpoints in {folder}: {', '.join(present) or 'none'}. Finish the training "
            "with `nnUNetv2_train ... --c`, or name another checkpoint with -chk or other folds with -f."
        )
    return found if folds is None else {fold: found[fold] for fold in folds}


def stock_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint as stock nnU-Net would have written it.

    The trainer is renamed and `ssl_state` left out. Of the optimizer the first group of parameters stays, the one that stock
    nnU-Net has; a method's heads that share the optimizer are further groups.
    """
    optimizer = checkpoint["optimizer_state"]
    groups = optimizer["param_groups"][:1]
    kept = {index for group in groups for index in group["params"]}
    state = {index: value for index, value in optimizer["state"].items() if index in kept}
    changed = {"trainer_name": STOCK_TRAINER, "optimizer_state": {**optimizer, "state": state, "param_groups": groups}}
    return {key: value for key, value in {**checkpoint, **changed}.items() if key != "ssl_state"}


def _refuse_networks_of_ours(plans_file: Path, configuration: str) -> None:
    plans = read_plans(plans_file, AGAIN)
    name = get_configuration(plans, configuration).network_arch_class_name
    if name.split(".")[0] == "nnunet_ssl":
        raise UserError(
            f"{plans_file}: network_class_name of '{configuration}' is {name}. This network belongs to nnunet_ssl, so stock "
            "nnU-Net cannot build it and the model cannot be used without this package. Share the model folder as it is and "
            "install nnunet_ssl where you predict, or train with plans of nnU-Net's own networks."
        )


def _check_stock_loads(folder: Path, folds: list[str], checkpoint: str, source: Path) -> None:
    """Load every fold with nnU-Net's predictor, as `nnUNetv2_predict_from_modelfolder` does."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(io.StringIO()):  # it says that CPUs are slow, which does not matter here
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    try:
        load_model(predictor, folder, folds, checkpoint)
    except UserError as error:
        raise UserError(
            f"stock nnU-Net cannot load the weights of {source}: its trainer builds another network than the plans name. "
            f"Share the model folder as it is and install nnunet_ssl where you predict.\n{error}"
        ) from error


def _refuse_to_replace(out: Path, source: Path, overwrite: bool) -> None:
    if source == out or source.is_relative_to(out) or out.is_relative_to(source):
        raise UserError(f"-o {out} and the trained model {source} lie in each other. Choose a folder of its own.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PROVENANCE_FILE).is_file():
        raise UserError(
            f"{out} exists and was not written by `nnunet_ssl export` (it has no {PROVENANCE_FILE}), so it is not replaced. "
            "Choose another folder with -o, or remove it yourself."
        )
    if not overwrite:
        raise UserError(
            f"{out} holds an earlier export. Choose another folder with -o, or add --overwrite to replace it."
        )
    refuse_to_replace(out, [source], "another folder with -o")


def export_model(
    source: Path,
    out: Path,
    configuration: str,
    folds: list[str] | None = None,
    checkpoint: str = DEFAULT_CHECKPOINT,
    overwrite: bool = False,
) -> list[str]:
    """Write the model of the folder `source` (see `model_folder`) to `out`, say how to predict with it; returns its folds.

    It is written to a hidden folder beside `out`, loaded once with nnU-Net's predictor and then renamed.

    Raises:
        UserError: a file is missing, `out` may not be replaced, or stock nnU-Net cannot load this model.
    """
    given, source, out = out, Path(source).resolve(), Path(out).resolve()
    recover(out)
    _refuse_to_replace(out, source, overwrite)
    load_dataset_json(source / "dataset.json")
    files = checkpoint_files(source, folds, checkpoint)
    _refuse_networks_of_ours(source / "plans.json", configuration)

    with under_construction(out) as new:
        for name in (*_REQUIRED_FILES, *_OPTIONAL_FILES):
            if (source / name).is_file():
                shutil.copyfile(source / name, new / name)
        trainers = {}
        for fold, file in files.items():
            loaded = read_checkpoint(file, ("trainer_name", "optimizer_state", "network_weights", "init_args"))
            trainers[fold] = loaded["trainer_name"]
            (new / f"fold_{fold}").mkdir()
            write_torch(stock_checkpoint(loaded), new / f"fold_{fold}" / checkpoint)
        _check_stock_loads(new, list(files), checkpoint, source)
        provenance = {"trainer_name": trainers, "checkpoint": checkpoint, "model": source.name}
        (new / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n")
    exported, named = " ".join(files), "" if checkpoint == DEFAULT_CHECKPOINT else f" -chk {checkpoint}"
    print(
        f"Exported {source.name}, fold {exported}, to {given}. Predict with stock nnU-Net:\n"
        f"  nnUNetv2_predict_from_modelfolder -i INPUT -o OUTPUT -m {given} -f {exported}{named}"
    )
    return list(files)
