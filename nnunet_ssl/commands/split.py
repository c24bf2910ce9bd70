"""`nnunet_ssl split`: a budget of labels on one data set."""

from __future__ import annotations

import argparse

from nnunet_ssl.data.label_budget import DEFAULT_FOLDS, write_budget

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
        help="[REQUIRED] patients that keep their labels in each fold: their number, a share (0.1, 10%%), or a text file "
        "with one case id per line",
    )
    parser.add_argument("--seed", type=int, help="[OPTIONAL] seed of the draw; fold k uses seed + k. Default: 0")
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
        f"{DEFAULT_FOLDS}, or as many as there are patients, where there is no splits_final.json",
    )
    parser.add_argument("-np", type=int, default=8, help="[OPTIONAL] processes to hash images with. Default: 8")
    parser.add_argument(
        "--overwrite", action="store_true", help="[OPTIONAL] replace a different splits_final.json (a copy is kept)"
    )


def run(args: argparse.Namespace) -> None:
    write_budget(
        args.d,
        args.labeled,
        args.seed,
        val=args.val,
        val_fraction=args.val_fraction,
        folds=args.f,
        num_processes=args.np,
        overwrite=args.overwrite,
    )
