"""nnU-Net's three folders, by its environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_ssl.errors import UserError

WHAT = {
    "nnUNet_raw": "nnU-Net's raw data sets",
    "nnUNet_preprocessed": "nnU-Net's preprocessed data sets",
    "nnUNet_results": "nnU-Net's trained models",
}


def nnunet_folder(variable: str) -> Path:
    """The folder that a variable of `WHAT` names.

    Raises:
        UserError: it is not set; it is empty or begins with `~`, which a shell replaces only outside of quotation marks. Both would
            be folders below the one that the command was called in.
    """
    value, set_it = os.environ.get(variable), f"Set it: export {variable}=/path/to/{variable}"
    if value is None:
        raise UserError(
            f"the environment variable {variable} is not set. Allowed: the folder of {WHAT[variable]}. {set_it}"
        )
    if not value.strip() or value.startswith("~"):
        why = "the shell does not replace ~ in quotation marks" if value.strip() else "it names no folder"
        raise UserError(f"the environment variable {variable} is '{value}': {why}. {set_it}")
    return Path(value)


def check_nnunet_folders() -> None:
    """UserError for a variable that is set and names no folder, before anything is written to what it would mean."""
    for variable in WHAT:
        if variable in os.environ:
            nnunet_folder(variable)
