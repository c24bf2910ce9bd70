"""Trained models and preprocessed cases that others may have made: nothing in their files is executed unless the user trusts it.

Checkpoints and the `*.pkl` of cases are Python pickles, which may call any function when they are read, and plans name the classes
of a network by their module. Here only what nnU-Net and this package store is let through; `--trust` lets everything through.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import io
import os
import pickle
import pydoc
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.data.json_files import expect
from nnunet_ssl.data.listing import what_it_is
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.data.raw_dataset import RawDataset, load_dataset_json
from nnunet_ssl.errors import UserError, excerpt

TRUST = "If you trust whoever made it, add --trust: what it names is then executed."
RETRAIN = "Train again: nnU-Net writes it when a training starts."
NEEDED = {"network_weights": (dict, "an object"), "trainer_name": (str, "a text"), "init_args": (dict, "an object")}
# Where the classes of nnU-Net's networks and of ours are; plans of others may name any function.
NETWORKS = ("dynamic_network_architectures.", "torch.nn.", "nnunetv2.", "nnunet_ssl.")

LITTLE_SPACE = 64 * 1024**2  # bytes; below this much a failed write is put down to a full disk
_ZIP = b"PK\x03\x04"  # begins every file of torch.save since PyTorch 1.6
# texts: the names of cases in splits that nnU-Net makes
NUMBERS_AND_TEXTS = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?US"


@functools.cache
def _allowed() -> dict[str, Any]:
    """What pickles of bytes, sets and numpy's numbers and arrays name; numpy 2 has moved it, and files have old names or new."""
    scalar, array, buffer = (
        reduced[0] for reduced in (np.float64(0).__reduce__(), np.zeros(1).__reduce__(), np.zeros(1).__reduce_ex__(5))
    )
    found: dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "_codecs.encode": codecs.encode}
    for package in ("numpy.core", "numpy._core"):
        found |= {f"{package}.multiarray.scalar": scalar, f"{package}.multiarray._reconstruct": array}
        found[f"{package}.numeric._frombuffer"] = buffer
    for package in ("builtins", "__builtin__"):  # what Python 2 called it is in files of the pickle protocol 2
        found |= {f"{package}.bytes": bytes, f"{package}.set": set}
    return found


# ------------------------------------------------------------------------------------------------------------ checkpoints


@contextlib.contextmanager
def _ours_allowed() -> Iterator[None]:
    """Within this context `torch.load(weights_only=True)` takes what `_allowed` names, too."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    def named(name: str, function: Callable) -> Callable:
        def alias(*args):  # PyTorch 2.4 knows what is allowed by the name that the function has itself
            return function(*args)

        alias.__module__, _, alias.__name__ = name.rpartition(".")
        alias.__qualname__ = alias.__name__
        return alias

    before = list(get_safe_globals())
    # numpy's own types are given as they are: what is made of them is then filled with its content
    types: list[Any] = [np.ndarray, np.dtype, *{type(np.dtype(code)) for code in NUMBERS_AND_TEXTS}]
    add_safe_globals([*types, *(named(n, f) for n, f in _allowed().items() if f not in types)])
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def read_checkpoint(file: Path, trust: bool = False) -> dict[str, Any]:
    """What a checkpoint of nnU-Net holds. Its tensors are on the CPU, mapped and not yet read.

    Args:
        trust: also read what names other functions than nnU-Net's checkpoints do, and so execute them.

    Raises:
        UserError: it is damaged, or none of nnU-Net's; without `trust` also where something in it would be executed.
    """
    import torch

    if not file.is_file():
        raise UserError(f"{file} {what_it_is(file)}. Train again, or name another checkpoint with -chk.")
    try:
        if not trust:
            _refuse_other_formats(file)
        with contextlib.nullcontext() if trust else _ours_allowed():
            content = torch.load(file, map_location="cpu", weights_only=not trust, mmap=_is_zip(file))
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise whatever they like
        if not trust and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise UserError(
                f"{file} names {found[1]}, which nnU-Net's checkpoints do not and which would be executed. It was not read. {TRUST}"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{file} cannot be read ({reason}): it is damaged, or no checkpoint of nnU-Net. Train again, or name another "
            "checkpoint with -chk."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds a {type(content).__name__} and is no checkpoint of nnU-Net. Name another with -chk."
        )
    for key, (kind, allowed) in NEEDED.items():
        expect(
            isinstance(content.get(key), kind),
            file,
            key,
            type(content.get(key)).__name__,
            allowed,
            "Name another checkpoint with -chk.",
        )
    return content


def _is_zip(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(_ZIP)) == _ZIP


def _refuse_other_formats(file: Path) -> None:
    """Some versions of PyTorch execute what older formats hold even with weights_only, and all do so with TorchScript."""
    if not _is_zip(file):
        raise UserError(
            f"{file} has not the format of nnU-Net's checkpoints: it is damaged, or written by a PyTorch before 1.6. It was not "
            f"read. {TRUST}"
        )
    if any(name.rpartition("/")[2] == "constants.pkl" for name in zipfile.ZipFile(file).namelist()):
        raise UserError(f"{file} is a TorchScript archive and no checkpoint of nnU-Net. It was not read.")


# ----------------------------------------------------------------------------------------------------------------- models


def check_model(folder: Path, folds: Sequence[int | str], checkpoint_name: str) -> None:
    """UserError where checkpoints or plans of a trained model name something that nnU-Net's do not, and that would be executed."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans_file = folder / "plans.json"
    plans = PlansManager(read_plans(plans_file, RETRAIN))
    for fold in folds:
        file = folder / f"fold_{fold}" / checkpoint_name
        configuration = read_checkpoint(file)["init_args"].get("configuration")
        names = plans.available_configurations
        expect(
            configuration in names,
            file,
            "init_args.configuration",
            configuration,
            f"one of {', '.join(names)} ({plans_file})",
        )
        of_plans = plans.get_configuration(configuration)
        layers = [of_plans.network_arch_init_kwargs.get(key) for key in of_plans.network_arch_init_kwargs_req_import]
        for name in [of_plans.network_arch_class_name, *layers]:
            if name is not None and not _is_network(name):
                raise UserError(
                    f"{plans_file}, {configuration}: the network names {name}, which is no network or layer of nnU-Net's "
                    f"and would be executed. {TRUST}"
                )


def _is_network(name: object) -> bool:
    from torch import nn

    if not isinstance(name, str) or not name.startswith(NETWORKS):
        return False
    found = pydoc.locate(
        name
    )  # also goes through what a module has imported, so that its beginning does not say where it is from
    return found is None or (
        isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(NETWORKS)
    )


def check_same_data(folder: Path, raw: RawDataset) -> None:
    """UserError where a trained model knows other classes, regions or channels than the raw data set.

    Both are compared as `load_dataset_json` gives them: `1`, `"1"` and `[1]` are the same class.
    """
    file = folder / "dataset.json"
    own, of_model = _data_keys(raw.dataset_json), _data_keys(load_dataset_json(file, RETRAIN))
    for key, found in of_model.items():
        if found != own[key]:
            raise UserError(
                f"{file}: '{key}' is {excerpt(found)}, but {raw.folder / 'dataset.json'} has {excerpt(own[key])}. Train the "
                "model on the present data set, or correct the file."
            )


def _data_keys(dataset_json: dict) -> dict[str, Any]:
    """Classes, regions and channels, equal where nnU-Net does the same with them."""
    labels = dataset_json["labels"]
    has_regions = any(isinstance(value, list) for value in labels.values())
    regions = [[name, sorted(v) if isinstance(v, list) else [v]] for name, v in labels.items()]
    channels = dataset_json.get("channel_names", dataset_json.get("modality"))
    return {
        # the outputs of a network have the order of the regions
        "labels": regions if has_regions else labels,
        "regions_class_order": dataset_json.get("regions_class_order") if has_regions else None,
        "channel_names": list(channels.values()),
    }


def load_predictor(
    folder: Path,
    folds: Sequence[int | str],
    checkpoint_name: str,
    *,
    device: str = "cpu",
    trust: bool = False,
    **options: Any,
):
    """nnU-Net's predictor with a trained model, whose files are looked at first: nnU-Net itself reads them with pickle.

    Args:
        trust: do not look.
        options: of `nnUNetPredictor`.

    Raises:
        UserError: as `check_model`; no such device; nnU-Net cannot load the model.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda: torch finds no CUDA device. Predict with -device cpu (slow).")
    if not trust:
        check_model(folder, folds, checkpoint_name)
    load_dataset_json(folder / "dataset.json", RETRAIN)
    with contextlib.redirect_stdout(io.StringIO()):  # it says that CPUs are slow
        predictor = nnUNetPredictor(device=torch.device(device), **options)
    try:
        predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), checkpoint_name)
        for weights in predictor.list_of_parameters:  # nnU-Net takes those of the further folds when it predicts
            predictor.network.load_state_dict(weights)
    except Exception as error:  # whatever a wrong file leads to in nnU-Net
        raise UserError(f"nnU-Net cannot load the model in {folder}: {type(error).__name__}: {error}") from error
    return predictor


def write_torch(content: Any, file: Path) -> None:
    """torch.save, which raises a RuntimeError where the disk is full. OSError then."""
    import torch

    try:
        torch.save(content, file)
    except RuntimeError as error:
        free = shutil.disk_usage(file.parent).free
        code = errno.ENOSPC if free < LITTLE_SPACE else errno.EIO
        raise OSError(code, os.strerror(code), str(file)) from error


# ------------------------------------------------------------------------------------------------------------------ cases


class _OnlyNumpy(pickle.Unpickler):
    """Reads numbers, texts, containers and numpy's arrays; anything else is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _allowed():
            return _allowed()[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def read_properties(file: Path, trust: bool = False) -> dict[str, Any]:
    """What nnU-Net's preprocessing noted down of a case (`CASE.pkl`).

    Args:
        trust: also read what names other functions than nnU-Net's files do, and so execute them.

    Raises:
        UserError: it is missing or damaged; without `trust` also where something in it would be executed.
    """
    again = f"Run `nnunet_ssl plan_and_preprocess -d {dataset_number(file.parents[1].name)}"
    try:
        with open(file, "rb") as stream:
            content = (pickle.Unpickler if trust else _OnlyNumpy)(stream).load()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist: this configuration is not preprocessed. {again}`.") from None
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise whatever they like
        if found := re.match(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{file} names {found[1]}, which nnU-Net's cases do not and which would be executed. It was not read. {TRUST}"
            ) from error
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}). {again} --clean`.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; nnU-Net writes an object. {again} --clean`.")
    return content
