"""Trainers that users keep in folders of their own, which `nnUNet_extTrainer` names."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_ssl.discovery import SCANNED_FOLDER
from nnunet_ssl.engine.configurable import ConfigurableTrainer

_OURS = next(SCANNED_FOLDER.glob("*.py")).name


def trainer_in_folders(name: str, variant: str) -> type[ConfigurableTrainer] | None:
    """The trainer `name` of the first folder that has it, found as nnU-Net finds it; the same object at every call.

    None where no folder has it, where it does not build on this package's trainers (its settings are then no class attributes),
    and where a folder has a class called `variant`, which is not to be hidden by one that is made.
    """
    return _found(name, variant, os.environ.get("nnUNet_extTrainer", ""))


@cache
def _found(name: str, variant: str, paths: str) -> type[ConfigurableTrainer] | None:
    # Not our own folder, nor that of another installation: it would ask here again.
    folders = [p for p in paths.split(os.pathsep) if p.strip() and os.path.exists(p) and not Path(p, _OURS).is_file()]
    cls = _first(name, folders)
    if not (isinstance(cls, type) and issubclass(cls, ConfigurableTrainer)) or _first(variant, folders) is not None:
        return None
    return cls


def _first(name: str, folders: list[str]):
    for folder in folders:
        cls = recursive_find_python_class(folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True)
        if cls is not None:
            return cls
    return None
