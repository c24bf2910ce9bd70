"""`nnunet_ssl weaken`."""

from __future__ import annotations

import argparse
import json

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.derived import add_writing_arguments, carried_lists, place_files, same_request, under_construction
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.data.staging import recover, target_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak import boxes as boxes_of_cases
from nnunet_ssl.weak.generate import RULES
from nnunet_ssl.weak.weakening import (
    _boxes_json,
    _dataset_json,
    _make_labels,
    _partial_labels,
    _report,
    _write_sheet,
    read_codes,
    read_recipe,
    read_sources,
)

DESCRIPTION = (
    "Simulate weak labels: copy a raw data set with dense labels and replace the labels of imagesTr by scribbles, points,\n"
    "boxes, single slices, or by some of the classes only. What is not annotated gets nnU-Net's ignore label. The dense labels\n"
    "are kept in labelsTr_dense, for validation; those of test cases stay as they are. The same case always gets the same\n"
    "weak labels. docs/weak_labels.md has an example of every kind.\n\n"
    "kinds and their rules (the first is the default):\n"
    "  scribble  bench | skeleton | cut | walk: in every slice, for the background and each class\n"
    "  points    center | extreme: per component of a volume; centroid | random | erosion: per class and slice\n"
    "  boxes     2d | 3d: background outside the boxes, ignore inside; boxes.json has the boxes\n"
    "  slices    --fraction F | --every K: some slices dense, the rest ignore\n"
    "  partial   each patient has some classes only, the others are background; the key partial_labels of dataset.json says\n"
    "            which"
)


EXAMPLE = (
    "example:\n"
    "  nnunet_ssl weaken -d 27 -o 127 --kind scribble --rule cut\n"
    "  nnunet_ssl weaken -d 27 -o 128 --kind partial --annotated RV MLV,LVC"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set with dense labels")
    parser.add_argument("-o", type=int, required=True, metavar="ID", help="[REQUIRED] id of the data set to be made")
    parser.add_argument("-name", help="[OPTIONAL] its name after DatasetXXX_. Default: the name of -d and the kind")
    parser.add_argument("--kind", required=True, choices=RULES, help="[REQUIRED] of weak label, see above")
    rules = sorted({rule for rules in RULES.values() for rule in rules if rule} - set(RULES["slices"]))
    parser.add_argument("--rule", choices=rules, help="[OPTIONAL] of the kind, see above")
    parser.add_argument(
        "--components",
        type=int,
        metavar="N",
        help="[OPTIONAL] scribble: only in the N largest components of a class in a slice. Default: all",
    )
    parser.add_argument(
        "--radius",
        type=int,
        metavar="VOXELS",
        help="[OPTIONAL] points: of what is labeled around a point, within its class; default 1, and 2 for centroid, random and "
        "the background points of erosion. boxes: annotate also the innermost voxel of each object and this much around it; "
        "default: no such seeds",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="MM",
        help="[OPTIONAL] points (center, extreme): distance of the background points beyond the sides of an object, default 5. "
        "boxes: by which a box is wider on each side, default 0",
    )
    parser.add_argument(
        "--background_points",
        type=int,
        metavar="N",
        help="[OPTIONAL] points: random points in the background, per case (center, extreme) or slice. Default: 10",
    )
    parser.add_argument("--fraction", type=float, help="[OPTIONAL] slices: fraction that stays dense. Default: 0.1")
    parser.add_argument("--every", type=int, metavar="K", help="[OPTIONAL] slices: every K-th stays dense")
    parser.add_argument(
        "--annotated",
        nargs="+",
        metavar="CLASS[,CLASS...]",
        help="[OPTIONAL] partial: the classes that each source annotates; the patients are dealt out to the sources. Default: as "
        "many sources as classes, each with one class",
    )
    parser.add_argument(
        "--axis",
        type=int,
        default=0,
        choices=(0, 1, 2),
        help="[OPTIONAL] axis along which slices are counted, in nnU-Net's order (z, y, x for NIfTI). Default: 0",
    )
    parser.add_argument("--seed", type=int, default=0, help="[OPTIONAL] another draw of everything random. Default: 0")
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    recipe = read_recipe(args)
    raw = RawDataset.open(args.d)
    codes = read_codes(raw)
    name = args.name or f"{raw.name.partition('_')[2]}_{args.kind}"
    target = target_folder(args.o, name, option="-o")
    if target == raw.folder.absolute():
        raise UserError(f"-o {args.o}: this is the data set with the dense labels. Give a free id.")
    case_list, splits = carried_lists(raw)
    partial = {}
    if args.kind == "partial":
        partial = _partial_labels(raw, read_sources(args.annotated, codes), case_list, splits, args.seed)
    dataset_json = _dataset_json(raw, name, codes, recipe, partial)

    recover(target)
    if target.exists() and not args.overwrite:
        if same_request(target, dataset_json, sorted(raw.labeled)):
            print(f"{target} already holds these weak labels; nothing is written. --overwrite makes them again.")
            return
        raise UserError(
            f"{target} exists and holds something else: cases, kind or options differ. Allowed: a free id (-o), or "
            "--overwrite, which replaces the folder once the new one is complete."
        )
    with under_construction(target) as staging:
        linked = place_files(raw, raw.labels, staging, args.copy)
        made = _make_labels(raw, recipe, codes, partial, staging, args.np, target.name)
        (staging / "dataset.json").write_text(json.dumps(dataset_json, indent=4) + "\n", encoding="utf-8")
        if case_list is not None:
            case_list.save(staging / LIST_FILE)
        if splits is not None:
            write_splits(staging / SPLITS_FILE, splits, overwrite=False)
        if recipe.kind == "boxes":
            write_json_atomically(_boxes_json(recipe, made), staging / boxes_of_cases.FILE_NAME)
        _write_sheet(staging, target.name, recipe, codes, made)
    _report(target, args.o, raw, recipe, codes, made, partial, splits, linked)
