"""`nnunet_ssl preprocess_unlabeled`: the unlabeled images, with plans that exist."""

from __future__ import annotations

import argparse

from nnunet_ssl.commands.arguments import add_preprocessing_arguments
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.preprocessing.unlabeled import preprocess_with_plans

DESCRIPTION = (
    "Preprocess the images of imagesUn with existing plans, for data sets that nnUNetv2_plan_and_preprocess has prepared. "
    "Only what is missing is done. Also writes unlabeled.json, which training reads."
)
EXAMPLE = "example:\n  nnunet_ssl preprocess_unlabeled -d 101 -c 3d_fullres"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set")
    parser.add_argument(
        "-c",
        nargs="+",
        default=None,
        help="[OPTIONAL] configurations. Default: every configuration of the plans whose labeled cases are preprocessed",
    )
    parser.add_argument("-p", default="nnUNetPlans", help="[OPTIONAL] name of the plans. Default: nnUNetPlans")
    parser.add_argument("-np", type=int, default=8, help="[OPTIONAL] number of processes. Default: 8")
    parser.add_argument(
        "--rehash", action="store_true", help="[OPTIONAL] read every image again instead of trusting unlabeled.json"
    )
    add_preprocessing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    preprocess_with_plans(
        RawDataset.open(args.d),
        args.p,
        args.c,
        num_processes=args.np,
        rehash=args.rehash,
        overwrite=args.overwrite,
        verbose=args.verbose,
        show_progress=not args.no_pbar,
    )
