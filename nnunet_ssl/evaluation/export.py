"""`nnunet_ssl export`: a model that stock nnU-Net loads without this package.

nnU-Net looks up the trainer that a checkpoint names when it predicts. The exported copy names `nnUNetTrainer` instead, the
way nnU-Net documents for sharing models of other trainers, and leaves out what only training with this package needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.derived import scratch_folder, under_construction
from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.model_files import RETRAIN, check_model, load_predictor, read_checkpoint, write_torch
from nnunet_ssl.data.ownership import RECORD, refuse_to_replace
from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.data.raw_dataset import load_dataset_json
from nnunet_ssl.data.staging import recover
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import get_configuration

STOCK_TRAINER = "nnUNetTrainer"
DEFAULT_CHECKPOINT = "checkpoint_final.pth"
PROVENANCE_FILE = "exported_from.json"
_REQUIRED_FILES = ("plans.json", "dataset.json")
_OPTIONAL_FILES = ("dataset_fingerprint.json",)
_ZIP_MARK = b"written by nnunet_ssl export"  # only such files are replaced
_FOLD_FILES = ("progress.png", "validation/summary.json")  # nnUNetv2_export_model_to_zip fails without them
_CROSSVAL_FILES = (
    "summary.json",
    "postprocessing.json",
    "postprocessing.pkl",
)  # what it takes of the selection, if there was one


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """`nnUNet_results/<data set>/<trainer>__<plans>__<configuration>`, which exists.

    Raises:
        UserError: unknown data set, nnUNet_results not set, or nothing was trained under this name.
    """
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    from nnunet_ssl.data.raw_dataset import dataset_name

    name = dataset_name(dataset)
    nnunet_folder("nnUNet_results")  # says what nnU-Net's own message does not
    folder = Path(get_output_folder(name, trainer, plans, configuration))
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
    nnU-Net has; a method's heads that share the optimizer are further groups. A checkpoint that was made small has no optimizer.
    """
    stock = {**checkpoint, "trainer_name": STOCK_TRAINER}
    stock.pop("ssl_state", None)
    if optimizer := checkpoint.get("optimizer_state"):
        groups = optimizer["param_groups"][:1]
        kept = {index for group in groups for index in group["params"]}
        state = {index: value for index, value in optimizer["state"].items() if index in kept}
        stock["optimizer_state"] = {**optimizer, "state": state, "param_groups": groups}
    return stock


def _refuse_networks_of_ours(plans_file: Path, configuration: str) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(read_plans(plans_file, RETRAIN))
    name = get_configuration(plans, configuration).network_arch_class_name
    if name.split(".")[0] == "nnunet_ssl":
        raise UserError(
            f"{plans_file}: network_class_name of '{configuration}' is {name}. This network belongs to nnunet_ssl, so stock "
            "nnU-Net cannot build it and the model cannot be used without this package. Share the model folder as it is and "
            "install nnunet_ssl where you predict, or train with plans of nnU-Net's own networks."
        )


def _check_stock_loads(folder: Path, folds: list[str], checkpoint: str, source: Path) -> None:
    """Load every fold with nnU-Net's predictor, as `nnUNetv2_predict_from_modelfolder` does."""
    try:
        # the checkpoints were read from `source` under the user's conditions, and written by us
        load_predictor(folder, folds, checkpoint, trust=True, perform_everything_on_device=False)
    except UserError as error:
        raise UserError(
            f"stock nnU-Net cannot load the weights of {source}: its trainer builds another network than the plans name. "
            f"Share the model folder as it is and install nnunet_ssl where you predict.\n{error.__cause__ or error}"
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


def _copy_present(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy what nnU-Net keeps beside checkpoints when a model is shared, as far as it is there."""
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            _copy(source / name, target / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; of the files that a summary names, the paths of this machine stay here."""
    if source.name != "summary.json":
        shutil.copyfile(source, target)
        return
    summary = read_json(source, remedy="Validate again: `nnUNetv2_train ... --val`.")
    for entry in summary.get("metric_per_case", ()):
        for key in ("prediction_file", "reference_file"):
            if key in entry:
                entry[key] = Path(entry[key]).name
    target.write_text(json.dumps(summary, indent=4) + "\n", encoding="utf-8")


def _refuse_existing_zip(file: Path, overwrite: bool) -> None:
    if not os.path.lexists(file):
        return
    ours = zipfile.is_zipfile(file) and zipfile.ZipFile(file).comment == _ZIP_MARK
    if not (overwrite and ours):
        other = "add --overwrite to replace it" if ours else "remove it yourself: nnunet_ssl export did not write it"
        raise UserError(f"{file} exists. Name another file with --zip, or {other}.")


def _parts_of_name(model: Path) -> tuple[str, str, str]:
    """Trainer, plans and configuration of a model's folder, which nnU-Net takes apart in the same way where a zip is installed."""
    parts = model.name.split("__")
    if len(parts) != 3:
        raise UserError(
            f"--zip: nnU-Net finds an installed model by its folder's name, TRAINER__PLANS__CONFIGURATION, and {model.name} has "
            f"{len(parts)} parts instead of 3. Export it with -o alone, or train with plans whose name has no '__'."
        )
    return parts[0], parts[1], parts[2]


def _zip(model: Path, file: Path, inside: Path) -> None:
    """Zip an exported model. `inside`: its folder below nnUNet_results."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = _ZIP_MARK
        for path in sorted(path for path in model.rglob("*") if path.is_file() and path.name != RECORD):
            archive.write(path, inside / path.relative_to(model))


def export_model(
    source: Path,
    out: Path | None,
    configuration: str,
    folds: list[str] | None = None,
    checkpoint: str = DEFAULT_CHECKPOINT,
    overwrite: bool = False,
    trust: bool = False,
    zip_file: Path | None = None,
) -> list[str]:
    """Write the model of the folder `source` (see `model_folder`), say how to predict with it; returns its folds.

    It is written to a hidden folder beside it, loaded once with nnU-Net's predictor and then renamed.

    Args:
        out: a folder of its own for the model; None: only the zip file.
        zip_file: for nnUNetv2_install_pretrained_model_from_zip, in which the model keeps its data set and name.
        trust: also read what would be executed, see `read_checkpoint`.

    Raises:
        UserError: neither `out` nor `zip_file`, a name that nnU-Net would not find in a zip, a file is missing or not trusted, one
            of both may not be replaced, or stock nnU-Net cannot load this model.
    """
    source = Path(source).resolve()
    if out is None and zip_file is None:
        raise UserError("Name a folder with -o, or a file with --zip.")
    for target in filter(None, (out, zip_file)):  # what killed exports have left
        recover(Path(target))
    if out is not None:
        _refuse_to_replace(Path(out).resolve(), source, overwrite)
    if zip_file is not None:
        trainer, plans, _ = _parts_of_name(source)
        _refuse_existing_zip(Path(zip_file), overwrite)
    load_dataset_json(source / "dataset.json", RETRAIN)
    files = checkpoint_files(source, folds, checkpoint)
    _refuse_networks_of_ours(source / "plans.json", configuration)
    if not trust:
        check_model(source, list(files), checkpoint)

    exported, named = " ".join(files), "" if checkpoint == DEFAULT_CHECKPOINT else f" -chk {checkpoint}"
    with contextlib.ExitStack() as stack:
        place = (
            scratch_folder(Path(zip_file)) if zip_file is not None and out is None else under_construction(Path(out))
        )
        new = stack.enter_context(place)
        _assemble(source, new, files, checkpoint, trust)
        if zip_file is not None:
            Path(zip_file).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(zip_file, lambda file: _zip(new, file, Path(source.parent.name, source.name)))
    print(f"Exported {source.name}, fold {exported}.")
    if zip_file is not None:
        print(
            f"To {zip_file}. Install it, and predict with stock nnU-Net:\n"
            f"  nnUNetv2_install_pretrained_model_from_zip {zip_file}\n"
            f"  nnUNetv2_predict -i INPUT -o OUTPUT -d {source.parent.name} -c {configuration} -tr {trainer} -p {plans} "
            f"-f {exported}{named}"
        )
    if out is not None:
        print(
            f"To {out}. Predict with stock nnU-Net:\n"
            f"  nnUNetv2_predict_from_modelfolder -i INPUT -o OUTPUT -m {out} -f {exported}{named}"
        )
    return list(files)


def _assemble(source: Path, new: Path, files: Mapping[str, Path], checkpoint: str, trust: bool) -> None:
    """Put the model into the folder `new`. `files`: fold -> its checkpoint."""
    for name in (*_REQUIRED_FILES, *_OPTIONAL_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, new / name)
    trainers = {}
    for fold, file in files.items():
        loaded = read_checkpoint(file, trust)
        trainers[fold] = loaded["trainer_name"]
        (new / f"fold_{fold}").mkdir()
        write_torch(stock_checkpoint(loaded), new / f"fold_{fold}" / checkpoint)
        _copy_present(file.parent, new / f"fold_{fold}", _FOLD_FILES)
    selection = f"crossval_results_folds_{'_'.join(files)}"
    _copy_present(source / selection, new / selection, _CROSSVAL_FILES)
    _check_stock_loads(new, list(files), checkpoint, source)
    provenance = {"trainer_name": trainers, "checkpoint": checkpoint, "model": source.name}
    (new / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n")
