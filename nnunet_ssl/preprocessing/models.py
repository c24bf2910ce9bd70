"""Finished models of nnU-Net: their checkpoints, and its predictor. What is wrong with a file is one sentence that names it."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.data.listing import what_it_is
from nnunet_ssl.data.raw_dataset import load_dataset_json
from nnunet_ssl.errors import UserError, excerpt
from nnunet_ssl.preprocessing.preprocessed import read_plans

LITTLE_SPACE = 64 * 1024**2  # bytes; below this much a failed write is put down to a full disk
REMEDY = "Train again, or name another checkpoint with -chk."
AGAIN = "Train again: nnU-Net writes it when a training starts."


def read_checkpoint(file: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """What a checkpoint holds; its tensors are mapped, and read when they are used.

    Checkpoints are Python's pickles, which can run code (docs/security.md).

    Args:
        keys: that it must have.

    Raises:
        UserError: no such file, a damaged one, one of another program, a missing key.
    """
    import torch

    if not file.is_file():
        raise UserError(f"{file} {what_it_is(file)}. {REMEDY}")
    try:
        # nnU-Net's checkpoints hold numpy numbers, which weights_only refuses
        content = torch.load(file, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{file} cannot be read, it is damaged or no checkpoint ({type(error).__name__}: {reason}). {REMEDY}"
        ) from error
    if not isinstance(content, dict) or (missing := [key for key in keys if key not in content]):
        found = f"no '{missing[0]}'" if isinstance(content, dict) else excerpt(content)
        raise UserError(f"{file} is no checkpoint of nnU-Net: it holds {found}. {REMEDY}")
    return content


def write_torch(content: Any, file: Path) -> None:
    """torch.save, which raises a RuntimeError where the disk is full. OSError then."""
    import torch

    try:
        torch.save(content, file)
    except RuntimeError as error:
        free = shutil.disk_usage(file.parent).free
        code = errno.ENOSPC if free < LITTLE_SPACE else errno.EIO
        raise OSError(code, os.strerror(code), str(file)) from error


def load_model(predictor: Any, folder: Path, folds: Sequence[int | str], checkpoint: str) -> None:
    """Give nnU-Net's predictor the model of a folder, with the weights of all folds looked at.

    Raises:
        UserError: a checkpoint, plans.json or dataset.json that cannot be used, a trainer that is not installed, weights of another
            network.
    """
    read_plans(folder / "plans.json", AGAIN)
    load_dataset_json(folder / "dataset.json")
    for fold in folds:
        read_checkpoint(folder / f"fold_{fold}" / checkpoint, ("network_weights", "init_args", "trainer_name"))
    try:
        predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), checkpoint)
        for parameters in predictor.list_of_parameters:
            predictor.network.load_state_dict(parameters)
    except Exception as error:  # of plans, trainers and networks, which raise whatever they like
        raise UserError(f"nnU-Net cannot load the model in {folder} ({type(error).__name__}): {error}") from error
