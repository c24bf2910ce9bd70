"""`nnunet_ssl plan_and_preprocess`: nnU-Net's planning and preprocessing, then the unlabeled images."""

from __future__ import annotations

import argparse

from nnunet_ssl.commands.arguments import add_preprocessing_arguments
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.texts import check_voxel_size
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.planning import Manner, Planning, plan_and_preprocess

DESCRIPTION = (
    "nnU-Net's fingerprint, planning and preprocessing of the labeled cases, then the unlabeled images with the same plans. "
    "The plans are those of nnUNetv2_plan_and_preprocess; running it again does only what is missing."
)
EXAMPLE = "example:\n  nnunet_ssl plan_and_preprocess -d 101 -c 3d_fullres -pl nnUNetPlannerResEncM"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", nargs="+", required=True, help="[REQUIRED] ids or names of data sets")
    parser.add_argument(
        "-c",
        nargs="+",
        default=["2d", "3d_fullres", "3d_lowres"],
        help="[OPTIONAL] configurations. Default: 2d 3d_fullres 3d_lowres; those that the plans do not have are skipped",
    )
    parser.add_argument("-pl", default="ExperimentPlanner", help="[OPTIONAL] planner class. Default: ExperimentPlanner")
    parser.add_argument("-fpe", default="DatasetFingerprintExtractor", help="[OPTIONAL] fingerprint extractor class")
    parser.add_argument("-gpu_memory_target", type=float, default=None, help="[OPTIONAL] GPU memory to plan for, in GB")
    parser.add_argument("-preprocessor_name", default="DefaultPreprocessor", help="[OPTIONAL] preprocessor class")
    parser.add_argument(
        "-overwrite_target_spacing",
        nargs="+",
        default=None,
        help="[OPTIONAL] three numbers: target spacing of 3d_fullres, in mm",
    )
    parser.add_argument("-overwrite_plans_name", default=None, help="[OPTIONAL] name of the plans to write")
    parser.add_argument(
        "-npfp", type=int, default=8, help="[OPTIONAL] processes for hashes and fingerprint. Default: 8"
    )
    parser.add_argument(
        "-np",
        type=int,
        nargs="+",
        default=None,
        help="[OPTIONAL] processes for preprocessing: one number, or one per configuration. "
        "Default: 8 for 2d, 4 for 3d_fullres, 8 for 3d_lowres, 4 for everything else",
    )
    parser.add_argument(
        "--verify_dataset_integrity", action="store_true", help="[RECOMMENDED] nnU-Net's check of the labeled cases"
    )
    parser.add_argument("--no_pp", action="store_true", help="[OPTIONAL] only fingerprint and plans")
    parser.add_argument("--clean", action="store_true", help="[OPTIONAL] do everything anew, also what is up to date")
    parser.add_argument("--rehash", action="store_true", help="[OPTIONAL] do not trust the hashes in unlabeled.json")
    add_preprocessing_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.np is not None and len(args.np) not in (1, len(args.c)):
        raise UserError(f"-np has {len(args.np)} numbers; allowed are 1 or {len(args.c)}, one per configuration of -c.")
    planning = Planning(
        planner=args.pl,
        fingerprint_extractor=args.fpe,
        preprocessor=args.preprocessor_name,
        gpu_memory_target=args.gpu_memory_target,
        target_spacing=args.overwrite_target_spacing and _spacing(args.overwrite_target_spacing),
        plans_name=args.overwrite_plans_name,
    )
    manner = Manner(
        processes_for_fingerprint=args.npfp,
        verify=args.verify_dataset_integrity,
        clean=args.clean,
        verbose=args.verbose,
        show_progress=not args.no_pbar,
    )
    for name_or_id in args.d:
        plan_and_preprocess(
            RawDataset.open(name_or_id),
            args.c,
            planning,
            manner,
            num_processes=args.np,
            only_plan=args.no_pp,
            rehash=args.rehash,
            overwrite=args.overwrite,
        )


def _spacing(texts: list[str]) -> list[float]:
    try:
        spacing = [float(number) for number in texts]
    except ValueError:
        spacing = []
    if len(spacing) != 3:
        raise UserError(f"-overwrite_target_spacing is {' '.join(texts)}; allowed are three positive numbers.")
    check_voxel_size("-overwrite_target_spacing", spacing, "three")
    return spacing
