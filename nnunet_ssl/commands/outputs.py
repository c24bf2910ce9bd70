"""Where each command writes: two processes that would write to one place take turns (`data/locks.py`)."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.data.environment import check_nnunet_folders

# `demo` has folders of its own, the others are asked before any is set
WITHOUT_FOLDERS = ("demo", "trainers", "trainers_path")


def outputs(command: str, args: argparse.Namespace) -> list[Path]:
    """Folders that a command writes to; nothing where nnU-Net's variable is not set, which the command itself says.

    `convert` locks its data set when it has read its arguments, `compare --test` also the predictions of each model when it
    comes to them.

    Raises:
        UserError: no such data set; a variable of nnU-Net that is set to what is no folder.
    """
    if command not in WITHOUT_FOLDERS:
        check_nnunet_folders()
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

    from nnunet_ssl.data.raw_dataset import dataset_name

    if command in ("merge", "weaken", "expand"):
        return raw_dataset(int(args.o))
    if command in ("plan_and_preprocess", "preprocess_unlabeled", "pseudo_label", "split"):
        names = args.d if isinstance(args.d, list) else [args.d]
        if not (nnUNet_raw.is_set() and nnUNet_preprocessed.is_set()):
            return []
        return [Path(str(nnUNet_preprocessed)) / dataset_name(name) for name in dict.fromkeys(names)]
    if command in ("export", "demo"):
        places = (args.o, args.zip) if command == "export" else (args.output,)
        return [Path(place) for place in places if place is not None]
    if command == "compare":
        from nnunet_ssl.evaluation.comparison import output_folder

        if args.o is None and not nnUNet_results.is_set():
            return []
        return [output_folder(args.d, args.c, args.f, args.test) if args.o is None else args.o]
    return []


def raw_dataset(number: int) -> list[Path]:
    """The raw data set of this number, whatever its name, where nnUNet_raw is set."""
    from nnunetv2.paths import nnUNet_raw

    return [Path(str(nnUNet_raw)) / f"Dataset{number:03d}"] if nnUNet_raw.is_set() else []
