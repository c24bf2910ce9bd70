"""`nnunet_ssl merge`: one data set with partial labels from several with different classes."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.commands.arguments import add_writing_arguments
from nnunet_ssl.dataset_conversion.merge import DEFAULT_FOLDS, merge_datasets

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
    add_writing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    merge_datasets(
        args.i,
        args.o,
        args.name,
        map_file=args.map,
        ignore=args.ignore,
        num_folds=args.f,
        num_processes=args.np,
        overwrite=args.overwrite,
    )
