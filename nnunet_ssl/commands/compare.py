"""`nnunet_ssl compare`: trainers on the same cases, with paired tests."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.commands.arguments import add_trust_argument

DESCRIPTION = """\
Compare trainers on the validation cases of their folds or, with --test, on the test cases (imagesTs, labelsTs).
Dice, Jaccard, 95HD, ASD and ASSD per class in voxels and mm, means with bootstrap intervals, and a paired
Wilcoxon signed-rank test of every trainer against the first. Writes compare.md, compare_cases.csv,
compare_summary.csv and compare.png. Runs that do not share one split are refused."""
EXAMPLE = """\
example:
  nnunet_ssl compare -d 101 -c 3d_fullres -f 0 -tr nnUNetTrainer nnUNetTrainerSemiSupervised --test
  nnunet_ssl compare -d 127 -c 2d -f 0 1 2 3 4 -tr nnUNetTrainer nnUNetTrainerScribbleDMPLS --write_crossval"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name of the data set")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres, ...")
    parser.add_argument(
        "-f",
        nargs="+",
        required=True,
        metavar="FOLD",
        help="one or more folds, or `all` for the models trained on all cases (nnU-Net's fold all). With --test, several "
        "folds predict as an ensemble",
    )
    parser.add_argument(
        "-tr",
        nargs="+",
        required=True,
        metavar="TRAINER",
        help="trainers; the first is what the others are tested against",
    )
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="[OPTIONAL] plans. Default: nnUNetPlans")
    parser.add_argument(
        "--test",
        action="store_true",
        help="[OPTIONAL] compare on the test cases; nnU-Net predicts them if they are not predicted yet, or if checkpoint or "
        "images have changed. Kept in <trainer folder>/test_folds_<FOLDS>",
    )
    parser.add_argument(
        "-chk",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="[OPTIONAL] checkpoint that predicts the test cases. Validation is nnU-Net's own and not made again. Default: "
        "checkpoint_final.pth",
    )
    parser.add_argument(
        "-o",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="[OPTIONAL] output. Default: nnUNet_results/<data set>/compare_<configuration>_<folds>, with --test followed by "
        "_test",
    )
    parser.add_argument("-np", type=int, default=4, metavar="N", help="[OPTIONAL] number of processes. Default: 4")
    parser.add_argument(
        "-device", default="cuda", choices=["cuda", "cpu", "mps"], help="[OPTIONAL] for predictions. Default: cuda"
    )
    parser.add_argument(
        "--disable_tta",
        action="store_true",
        help="[OPTIONAL] predict the test cases without mirroring: faster, less accurate",
    )
    parser.add_argument(
        "--write_crossval",
        action="store_true",
        help="[OPTIONAL] for sparse and partial labels: then let nnU-Net choose among the trainers, their ensembles and "
        "postprocessing by the dense labels of the validation cases (labelsTr_dense), where nnUNetv2_find_best_configuration "
        "would take labelsTr. Ensembles need trainings with --npz",
    )
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace a comparison in the output folder")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> None:
    from nnunet_ssl.evaluation.comparison import compare
    from nnunet_ssl.evaluation.test_predictions import PredictionSettings

    compare(
        args.d,
        args.c,
        args.f,
        args.tr,
        plans=args.p,
        test=args.test,
        settings=PredictionSettings(args.chk, args.device, not args.disable_tta, args.np, args.trust),
        output=args.o,
        num_processes=args.np,
        overwrite=args.overwrite,
        write_crossval=args.write_crossval,
    )
