"""`nnunet_ssl weaken`: simulated weak labels from dense ones."""

from __future__ import annotations

import argparse

from nnunet_ssl.commands.arguments import add_relabeling_arguments, add_writing_arguments
from nnunet_ssl.weak.generate import RULES
from nnunet_ssl.weak.recipes import LIMITS, make_recipe
from nnunet_ssl.weak.relabeling import Writing
from nnunet_ssl.weak.weakening import weaken_dataset

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
    add_relabeling_arguments(parser, "dense", "kind")
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
        choices=(0, 1, 2),
        help="[OPTIONAL] axis along which slices are counted, in nnU-Net's order (z, y, x for NIfTI). Default: 0",
    )
    parser.add_argument("--seed", type=int, help="[OPTIONAL] another draw of everything random. Default: 0")
    add_writing_arguments(parser, links=True)


def run(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in LIMITS}
    weaken_dataset(
        args.d,
        make_recipe(args.kind, args.rule, options, args.axis, args.seed),
        Writing(args.o, args.name, args.np, args.copy, args.overwrite),
        args.annotated,
    )
