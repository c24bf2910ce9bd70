"""`nnunet_ssl expand`: sparse labels grown over what the images tie to them."""

from __future__ import annotations

import argparse

from nnunet_ssl.commands.arguments import add_relabeling_arguments, add_writing_arguments
from nnunet_ssl.weak.expansion import LIMITS, METHODS, expand_dataset, make_method
from nnunet_ssl.weak.relabeling import Writing

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
    add_relabeling_arguments(parser, "sparse", "method")
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
    add_writing_arguments(parser, links=True)


def run(args: argparse.Namespace) -> None:
    expand_dataset(
        args.d,
        args.method,
        make_method(args.method, {name: getattr(args, name) for name in LIMITS}),
        Writing(args.o, args.name, args.np, args.copy, args.overwrite),
        per_slice=args.slices if args.slices or args.volume else None,
    )
