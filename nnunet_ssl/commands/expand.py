"""`nnunet_ssl expand`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from nnunet_ssl.data.dense_files import dense_files
from nnunet_ssl.data.derived import add_writing_arguments, carried_lists, place_files, same_request, under_construction
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.data.staging import recover, target_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.expansion import (
    IN_SLICES,
    METHODS,
    SHEET,
    _dataset_json,
    _make_labels,
    _report,
    read_codes,
    read_method,
)

DESCRIPTION = (
    "Expand scribbles or points into denser labels, before training: copy a raw data set whose labels have nnU-Net's ignore label\n"
    "and give the voxels that the image ties to annotated ones the same label. What is annotated keeps its label, what is\n"
    "uncertain stays ignored. Images, labelsTr_dense, test cases, imagesUn, unlabeled.json and splits are carried over.\n"
    "docs/weak_labels.md has an example.\n\n"
    "methods:\n"
    "  random_walker  the class whose seeds a random walker reaches first, where its probability is above --threshold (0.9);\n"
    "                 --beta. In slices as published, needs two classes in a slice; --volume: slow, 1 GB per 500000 voxels\n"
    "  geodesic       the class with the shortest path to a seed, along which steps between equal intensities are short, where\n"
    "                 it is below --threshold (0.2) times the longest of the class; --weight, --iterations. In volumes; --slices"
)


EXAMPLE = (
    "example:\n"
    "  nnunet_ssl expand -d 127 -o 128 --method random_walker\n"
    "  nnunet_ssl expand -d 127 -o 129 --method geodesic --threshold 0.1"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set with sparse labels")
    parser.add_argument("-o", type=int, required=True, metavar="ID", help="[REQUIRED] id of the data set to be made")
    parser.add_argument("-name", help="[OPTIONAL] its name after DatasetXXX_. Default: the name of -d and the method")
    parser.add_argument("--method", required=True, choices=METHODS, help="[REQUIRED] see above")
    parser.add_argument(
        "--threshold",
        type=float,
        help="[OPTIONAL] random_walker: smallest probability, default 0.9; 0 labels every voxel. geodesic: share of the largest "
        "distance, default 0.2",
    )
    parser.add_argument(
        "--beta", type=float, help="[OPTIONAL] random_walker: how hard edges are to cross. Default: 100"
    )
    parser.add_argument(
        "--weight",
        type=float,
        help="[OPTIONAL] geodesic: 0 counts millimeters only, 1 changes of intensity only. Default: 0.5",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        help="[OPTIONAL] geodesic: scans forward and backward; paths that turn often need more. Default: 4",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--slices",
        action="store_true",
        help="[OPTIONAL] expand in every slice across the axis of the largest spacing by itself",
    )
    where.add_argument("--volume", action="store_true", help="[OPTIONAL] expand in the volume")
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    method = read_method(args)
    raw = RawDataset.open(args.d)
    names, ignore = read_codes(raw)
    target = target_folder(args.o, args.name or f"{raw.name.partition('_')[2]}_{args.method}", option="-o")
    if target == raw.folder.absolute():
        raise UserError(f"-o {args.o}: this is the data set with the sparse labels. Give a free id.")
    per_slice = args.slices or (IN_SLICES[args.method] and not args.volume)
    case_list, splits = carried_lists(raw)
    dataset_json = _dataset_json(raw, target, args.method, method, per_slice)
    recover(target)
    if target.exists() and not args.overwrite:
        if same_request(target, dataset_json, sorted(raw.labeled)):
            print(f"{target} already holds these expanded labels; nothing is written. --overwrite makes them again.")
            return
        raise UserError(
            f"{target} exists and holds something else: cases, method or options differ. Allowed: a free id (-o), or "
            "--overwrite, which replaces the folder once the new one is complete."
        )
    with under_construction(target) as staging:
        linked = place_files(raw, dense_files(raw), staging, args.copy)
        made = _make_labels(raw, method, per_slice, names, ignore, staging, args.np, target.name)
        (staging / "dataset.json").write_text(json.dumps(dataset_json, indent=4) + "\n", encoding="utf-8")
        if case_list is not None:
            case_list.save(staging / LIST_FILE)
        if splits is not None:
            write_splits(staging / SPLITS_FILE, splits, overwrite=False)
        contact_sheet.write_contact_sheet(
            staging / SHEET,
            [result.tiles for result in made.values() if result.tiles],
            f"{target.name}: {args.method} ({', '.join(f'{k} {v:g}' for k, v in asdict(method).items())}) "
            f"in {'slices' if per_slice else 'volumes'}",
            names,
            contact_sheet.Side("annotated", ignore, 0.95, rings=True),
            contact_sheet.Side("expanded", ignore, 0.45),
        )
    _report(target, args.o, raw, names, ignore, made, linked)
