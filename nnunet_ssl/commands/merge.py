"""`nnunet_ssl merge`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import write_splits
from nnunet_ssl.data.staging import disk_message, put_in_place, recover, staging_folder, target_folder
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST_FILE
from nnunet_ssl.dataset_conversion.merge import (
    DEFAULT_FOLDS,
    _check_sources,
    _copy_cases,
    _load_map,
    _one_patient_per_image,
    _patients,
    _report,
    make_dataset_json,
    read_sources,
    stratified_folds,
)
from nnunet_ssl.errors import UserError

DESCRIPTION = """\
Merge raw data sets with different classes into one with partial labels: the liver of one, the kidneys of another. Case ids
get the name of their data set as a prefix; label maps get common ids; the key partial_labels of dataset.json says which
classes a case annotates. imagesTr, imagesUn and imagesTs are copied. Every fold validates on a share of every data set.

The map gives each data set (number or name) the common name of its classes, by label number or by class name; null for a
class that is not wanted: its voxels get the ignore label (--ignore), never background.
  {"9": {"1": "spleen"}, "17": {"spleen": "spleen", "right_kidney": "kidney", "left_kidney": "kidney", "aorta": null}}"""


EXAMPLE = """\
example:
  nnunet_ssl merge -i 9 17 -o 203 -name Abdomen --map map.json
  nnunet_ssl plan_and_preprocess -d 203 -c 3d_fullres
  nnUNetv2_train 203 3d_fullres 0 -tr nnUNetTrainerPartialLabel"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", nargs="+", required=True, metavar="DATASET", help="ids or names of the data sets to merge"
    )
    parser.add_argument("-o", type=int, required=True, metavar="ID", help="id of the data set to make")
    parser.add_argument("-name", default="Merged", help="[OPTIONAL] name after DatasetXXX_. Default: Merged")
    parser.add_argument(
        "--map",
        type=Path,
        default=None,
        metavar="FILE",
        help="[OPTIONAL] json file, see above. Default: every class keeps its name, and equal names are one class",
    )
    parser.add_argument(
        "--ignore",
        action="store_true",
        help="[OPTIONAL] give the data set an ignore label, for classes mapped to null. It has one anyway where a data set has",
    )
    parser.add_argument(
        "-f", type=int, default=DEFAULT_FOLDS, metavar="N", help=f"[OPTIONAL] number of folds. Default: {DEFAULT_FOLDS}"
    )
    parser.add_argument("-np", type=int, default=8, metavar="N", help="[OPTIONAL] number of processes. Default: 8")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace an existing data set of this id and name, once the new one is complete",
    )


def run(args: argparse.Namespace) -> None:
    target = target_folder(args.o, args.name, option="-o")
    if args.f < 2 or args.np < 1:
        raise UserError(f"-f {args.f}, -np {args.np}: allowed are 2 folds or more, and 1 process or more.")
    raws = [RawDataset.open(name) for name in args.i]
    _check_sources(raws)
    if target.name in [raw.name for raw in raws]:
        raise UserError(f"-o {args.o}: {target.name} is one of the data sets to merge. Give a free id.")
    classes, sources = read_sources(raws, _load_map(args.map), args.map, args.ignore)
    dataset_json = make_dataset_json(args.name, classes, sources)
    stratified_folds(sources, _patients(sources), args.f)  # too many folds are refused before anything is copied
    recover(target)
    if target.exists() and not args.overwrite:
        raise UserError(
            f"{target} exists. Allowed: a free id (-o), or --overwrite, which replaces the folder once the new one is complete."
        )
    staging = staging_folder(target)
    try:
        staging.mkdir(parents=True)
        records = _copy_cases(sources, dataset_json, staging, args.np, target.name)
        splits = stratified_folds(sources, _one_patient_per_image(_patients(sources), records), args.f)
        (staging / "dataset.json").write_text(json.dumps(dataset_json, indent=4) + "\n", encoding="utf-8")
        records.save(staging / LIST_FILE)
        write_splits(staging / "splits_final.json", splits, overwrite=False)
        put_in_place(staging, target)
    except OSError as error:
        raise UserError(disk_message(error, target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(args.o, target, sources, dataset_json, records, splits)
