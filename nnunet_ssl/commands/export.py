"""`nnunet_ssl export`: a model that stock nnU-Net loads without this package."""

from __future__ import annotations

import argparse

from nnunet_ssl.commands.arguments import add_trust_argument
from nnunet_ssl.evaluation.export import export_model, model_folder

DESCRIPTION = """\
Write a trained model to a folder of its own (-o), a zip file (--zip) or both, so that nnU-Net predicts with it where
nnunet_ssl is not installed. The original stays as it is. nnUNetv2_install_pretrained_model_from_zip installs the zip
file, in which the model keeps its data set and its name, so that it does not replace a model of nnUNetTrainer. For
nnUNetv2_export_model_to_zip the folder has to be RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION, and nnUNet_results RESULTS."""
EXAMPLE = """example:
  nnunet_ssl export -d 101 -c 3d_fullres -tr nnUNetTrainerSemiSupervised -f 0 -o LA_model
  nnUNetv2_predict_from_modelfolder -i imagesTs -o pred -m LA_model -f 0
  nnunet_ssl export -d 101 -c 3d_fullres -tr nnUNetTrainerSemiSupervised --zip LA_model.zip"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="DATASET", help="Data set name or id.")
    parser.add_argument("-c", required=True, metavar="CONFIG", help="Configuration, for example 3d_fullres.")
    parser.add_argument(
        "-tr", required=True, metavar="TRAINER", help="Trainer, for example nnUNetTrainerSemiSupervised."
    )
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="[OPTIONAL] Plans. Default: nnUNetPlans")
    parser.add_argument(
        "-f",
        nargs="+",
        metavar="FOLD",
        help="[OPTIONAL] Folds, numbers or 'all'. Default: every fold with the checkpoint",
    )
    parser.add_argument("-o", metavar="FOLDER", help="Where to write the model; must not exist.")
    parser.add_argument(
        "--zip", metavar="FILE", help="Zip file to write, for nnUNetv2_install_pretrained_model_from_zip."
    )
    parser.add_argument(
        "-chk",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="[OPTIONAL] Name of the checkpoint. Default: checkpoint_final.pth",
    )
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] Replace an earlier export.")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> None:
    source = model_folder(args.d, args.tr, args.p, args.c)
    export_model(
        source, args.o, args.c, args.f, args.chk, overwrite=args.overwrite, trust=args.trust, zip_file=args.zip
    )
