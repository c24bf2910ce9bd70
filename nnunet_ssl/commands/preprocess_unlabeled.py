"""`nnunet_ssl preprocess_unlabeled`."""

from __future__ import annotations

import argparse

from nnunet_ssl.data.dense_files import dense_files
from nnunet_ssl.data.raw_dataset import RawDataset, preprocessed_folder
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from nnunet_ssl.preprocessing.preprocessed import get_configuration, load_plans, prepare_lists
from nnunet_ssl.preprocessing.unlabeled import preprocess_configurations
from nnunet_ssl.preprocessing.unpaired_masks import mask_files, preprocess_masks

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
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace a different splits_final.json in nnUNet_preprocessed by that of the raw data set "
        "(a copy is kept)",
    )
    parser.add_argument("--verbose", action="store_true", help="[OPTIONAL] print what the preprocessor does")
    parser.add_argument("--no_pbar", action="store_true", help="[OPTIONAL] no progress bars")


def run(args: argparse.Namespace) -> None:
    raw = RawDataset.open(args.d)
    plans_manager = load_plans(raw.name, args.p)
    base = preprocessed_folder(raw.name)
    configurations = args.c
    if configurations is None:
        # a cascade shares the data of the configuration it inherits from, so every folder is done once
        by_folder = {}
        for name in plans_manager.available_configurations:
            by_folder.setdefault(get_configuration(plans_manager, name).data_identifier, name)
        configurations = [name for folder, name in by_folder.items() if (base / folder).is_dir()]
        if not configurations:
            raise UserError(
                f"{base} holds preprocessed labeled cases of no configuration of {args.p} (looked for "
                f"{', '.join(by_folder)}). Run `nnunet_ssl plan_and_preprocess -d {raw.name[7:10]}`, or name "
                "configurations with -c."
            )
    for name in configurations:
        get_configuration(plans_manager, name)
    content = prepare_lists(raw, args.np, args.rehash, args.overwrite, not args.no_pbar)
    nothing_unlabeled = not raw.unlabeled and not any(content.hidden_labels.values())
    if nothing_unlabeled and not dense_files(raw) and not mask_files(raw):
        raise UserError(
            f"{raw.folder / 'imagesUn'} holds no images, and no labels are hidden: there is nothing unlabeled in "
            f"{raw.name}. Put images CASE_0000{raw.dataset_json['file_ending']} into imagesUn, or hide labels with "
            f"`nnunet_ssl split -d {raw.name[7:10]} --labeled ...`."
        )
    preprocess_dense(raw, content, args.p, configurations, [args.np] * len(configurations), args)
    preprocess_masks(raw, args.p, configurations, [args.np] * len(configurations), args)
    preprocess_configurations(raw, content, args.p, configurations, [args.np] * len(configurations), args)
