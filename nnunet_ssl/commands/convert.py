"""`nnunet_ssl convert DATASET ...`: a public data set in nnU-Net raw format; each has a module with its own arguments."""

from __future__ import annotations

import argparse
import importlib

from nnunet_ssl.commands.arguments import make_parser
from nnunet_ssl.commands.outputs import raw_dataset
from nnunet_ssl.data.locks import only_writer

# name on the command line -> module, what it is
DATASETS: dict[str, tuple[str, str]] = {
    "LA": ("nnunet_ssl.dataset_conversion.Dataset101_LA", "left atrium, LGE-MRI (2018 challenge), NRRD or h5"),
    "ACDC": ("nnunet_ssl.dataset_conversion.Dataset027_ACDC", "cardiac cine MRI, NIfTI or h5"),
    "BraTS": ("nnunet_ssl.dataset_conversion.Dataset137_BraTS", "brain tumors 2018-2023, NIfTI"),
    "MSCMR": ("nnunet_ssl.dataset_conversion.Dataset145_MSCMR", "cardiac LGE-MRI with scribbles (CycleMix), NIfTI"),
    "scribbles": ("nnunet_ssl.dataset_conversion.scribble_folder", "any folder of images and sparse label maps"),
}

DESCRIPTION = (
    "Bring a public data set into nnU-Net raw format: labeled cases in imagesTr and labelsTr, unlabeled ones in imagesUn,\n"
    "test cases in imagesTs and labelsTs, with dataset.json, unlabeled.json and splits_final.json. Sparse labels (scribbles):\n"
    "what is not annotated becomes nnU-Net's ignore label; dense masks go to labelsTr_dense, for validation only.\n\n"
    "data sets:\n" + "\n".join(f"  {name:<9} {text}" for name, (_, text) in DATASETS.items()) + "\n\n"
    "`nnunet_ssl convert DATASET -h` shows the arguments of each."
)
EXAMPLE = "example:\n  nnunet_ssl convert LA -i 2018_LA -d 101 --labeled 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=", ".join(DATASETS))
    # the arguments belong to the data set, whose module is imported only when it is the one that was named
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the data set")


def run(args: argparse.Namespace) -> int | None:
    module = importlib.import_module(DATASETS[args.dataset][0])
    of_dataset = make_parser(f"convert {args.dataset}", module).parse_args(args.arguments)
    with only_writer(*raw_dataset(of_dataset.dataset_id)):
        return module.run(of_dataset)
