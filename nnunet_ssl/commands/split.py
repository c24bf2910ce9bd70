"""`nnunet_ssl split`."""

from __future__ import annotations

import argparse

from nnunet_ssl.data.label_budget import DEFAULT_FOLDS, _load_list, make_budget
from nnunet_ssl.data.raw_dataset import dataset_name, preprocessed_folder, raw_folder, save_list
from nnunet_ssl.data.splits import (
    FILE_NAME,
    cases_by_patient,
    load_splits,
    refuse_other_split,
    split_hash,
    write_splits,
)
from nnunet_ssl.errors import UserError

DESCRIPTION = (
    "Choose which cases of imagesTr keep their labels. Writes splits_final.json, which vanilla nnU-Net trains on too, and "
    "names in unlabeled.json the cases whose labels our trainers must not read. Cases of one patient stay together."
)


EXAMPLE = (
    "example:\n"
    "  nnunet_ssl split -d 27 --labeled 7 --seed 0\n"
    "  nnunet_ssl split -d 27 --labeled 0.1 --val val_cases.txt --overwrite"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set")
    parser.add_argument(
        "--labeled",
        required=True,
        help="[REQUIRED] patients that keep their labels in each fold: their number, a fraction such as 0.1, or a text "
        "file with one case id per line",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="[OPTIONAL] seed of the draw; fold k uses seed + k. Default: 0"
    )
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument(
        "--val", default=None, help="[OPTIONAL] text file with the validation cases, one id per line"
    )
    validation.add_argument(
        "--val_fraction", type=float, default=None, help="[OPTIONAL] fraction of the patients drawn for validation"
    )
    parser.add_argument(
        "-f",
        type=int,
        default=None,
        help="[OPTIONAL] number of folds to write. Default: as many as there are; 1 with --val or --val_fraction; "
        f"{DEFAULT_FOLDS} where there is no splits_final.json",
    )
    parser.add_argument("-np", type=int, default=8, help="[OPTIONAL] processes to hash images with. Default: 8")
    parser.add_argument(
        "--overwrite", action="store_true", help="[OPTIONAL] replace a different splits_final.json (a copy is kept)"
    )


def run(args: argparse.Namespace) -> None:
    name = dataset_name(args.d)
    content, channel_names = _load_list(name, args.np)
    folders = [folder for folder in (preprocessed_folder(name), raw_folder(name)) if folder.is_dir()]
    present = next((load_splits(f / FILE_NAME) for f in folders if (f / FILE_NAME).is_file()), None)

    splits, hidden, notes = make_budget(
        content, present, args.labeled, args.seed, val=args.val, val_fraction=args.val_fraction, folds=args.f
    )
    if not args.overwrite:
        for folder in folders:  # before the first of them is written
            refuse_other_split(folder / FILE_NAME, splits)
    for folder in folders:
        try:
            written = write_splits(folder / FILE_NAME, splits, args.overwrite)
        except PermissionError as error:
            raise UserError(
                f"{folder / FILE_NAME} cannot be written ({error.strerror}). nnU-Net's planner refuses to run while the "
                "splits of the raw and the preprocessed data set differ: make the file writable and run this again."
            ) from error
        print(f"{folder / FILE_NAME}: {'written' if written else 'is the same already'}")
    content.hidden_labels = {str(fold): cases for fold, cases in enumerate(hidden)}
    save_list(content, name)

    for fold, (split, cases) in enumerate(zip(splits, hidden)):
        patients = {key: len(cases_by_patient(c, content.groups)) for key, c in (*split.items(), ("hidden", cases))}
        print(
            f"fold {fold}: {len(split['train'])} labeled cases of {patients['train']} patients, {len(cases)} cases of "
            f"{patients['hidden']} patients with hidden labels, {len(content.unlabeled)} cases in imagesUn, "
            f"{len(split['val'])} validation cases of {patients['val']} patients; split {split_hash(split)[:12]}"
        )
    for note in notes:
        print(note)
    if any(hidden):
        ct = any(str(channel).lower() == "ct" for channel in channel_names)
        print(
            f"Note: fingerprint and plans of {name} were made with the labels of all {len(content.labeled)} cases of "
            "imagesTr, including the hidden ones. They decide spacing, patch size and, for CT, the intensities used for "
            "normalization"
            + (" (this data set has a CT channel, so they reach the training). " if ct else ". ")
            + "For plans that have seen the labeled cases only, convert with `nnunet_ssl convert ... --labeled`, which "
            "puts the others into imagesUn."
        )
