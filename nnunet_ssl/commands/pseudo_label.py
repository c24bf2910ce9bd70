"""`nnunet_ssl pseudo_label`: a round of labels for the unlabeled images, which nnUNetTrainerPseudoLabels trains on."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ssl.commands.arguments import add_trust_argument
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.texts import whole_number
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.pseudo_labeling import Elsewhere, RoundOptions, make_round
from nnunet_ssl.preprocessing.round_cases import Selection
from nnunet_ssl.preprocessing.round_prediction import Model

DESCRIPTION = (
    "Label the unlabeled images of a data set with a finished model, at test quality (sliding window, mirroring, mean\n"
    "probabilities of the folds), or take label maps that were made elsewhere (--from). The round is written to\n"
    "nnUNet_preprocessed/DatasetXXX_Name/pseudo_labels/<round>: label maps, a table of the cases (cases.csv), a figure of\n"
    "the least stable ones (cases.png) and what nnUNetTrainerPseudoLabels needs for the configuration. Run the same command\n"
    "again to continue after a kill. docs/pseudo_labels.md says when to use which option."
)
EXAMPLE = (
    "examples:\n"
    "  nnunet_ssl pseudo_label -d 101 -c 3d_fullres -f 0 1 2 3 4\n"
    "  nnunet_ssl pseudo_label -d 101 -c 3d_fullres --from other_tool --map 5=liver 2=kidney other=background\n"
    "two rounds, each with a results folder of its own (nnUNetTrainer is trained already):\n"
    "  nnunet_ssl pseudo_label -d 101 -c 3d_fullres -f 0\n"
    "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerPseudoLabels_seed1\n"
    "  nnunet_ssl pseudo_label -d 101 -c 3d_fullres -f 0 -tr nnUNetTrainerPseudoLabels_seed1 --previous round1 --drop 0.04\n"
    "  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerPseudoLabels_seed2"
)
# they need a model's probabilities or say which model it is
OF_MODELS = {"tr": "-tr", "chk": "-chk", "disable_tta": "--disable_tta", "save_probabilities": "--save_probabilities"}
OF_MODELS |= {"min_confidence": "--min_confidence", "gate": "--gate", "device": "-device"}


def fold(text: str) -> int | str:
    """A fold as nnU-Net's commands take it: a number from 0 on, or all."""
    number = whole_number(text)
    if text != "all" and number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no fold; allowed are numbers from 0 on, and all")
    return text if number is None else number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set")
    parser.add_argument(
        "-c",
        required=True,
        help="[REQUIRED] configuration of the model, and the one that the round is preprocessed for",
    )
    parser.add_argument(
        "-f",
        nargs="+",
        type=fold,
        default=[],
        help="[REQUIRED without --from] folds, an ensemble; or all. "
        "With --from: those that the round is for. Default: all",
    )
    parser.add_argument("-tr", default=None, help="[OPTIONAL] trainer of the model. Default: nnUNetTrainer")
    parser.add_argument("-p", default="nnUNetPlans", help="[OPTIONAL] name of the plans. Default: nnUNetPlans")
    parser.add_argument("-chk", default=None, help="[OPTIONAL] checkpoint. Default: checkpoint_final.pth")
    parser.add_argument(
        "-o",
        metavar="NAME",
        help="[OPTIONAL] name of the round. Default: the one with these settings that was begun, else round1, round2, ...",
    )
    parser.add_argument(
        "--from", dest="folder", type=Path, metavar="FOLDER", help="[OPTIONAL] label maps made elsewhere"
    )
    parser.add_argument(
        "--map",
        nargs="+",
        metavar="NUMBER=CLASS",
        help="[OPTIONAL] with --from: what its numbers are here, by name or number (ignore: no decision), other=CLASS for the "
        "rest; or a json file with such pairs. Default: the same numbers",
    )
    parser.add_argument("--previous", metavar="ROUND", help="[OPTIONAL] the round before, for the instability")
    parser.add_argument(
        "--min_confidence",
        type=float,
        default=None,
        metavar="P",
        help="[OPTIONAL] voxels whose class has a smaller probability have no decision and are not trained on. Default: 0",
    )
    parser.add_argument(
        "--gate",
        type=float,
        default=None,
        metavar="SHARE",
        help="[OPTIONAL] a class of a case has no decision if a smaller share of its voxels has a probability above 0.9. Default: "
        "0, no gate; MedSAM2-SSL: 0.8",
    )
    parser.add_argument(
        "--drop",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="[OPTIONAL] share of the cases to leave out, the most unstable first; without --previous those with the highest "
        "entropy. Default: 0; FLARE22: 0.038",
    )
    parser.add_argument(
        "--save_probabilities", action="store_true", help="[OPTIONAL] also write probabilities/CASE.npz"
    )
    parser.add_argument("--disable_tta", action="store_true", help="[OPTIONAL] no mirroring: faster, less exact")
    parser.add_argument("-device", default=None, choices=("cuda", "cpu", "mps"), help="[OPTIONAL] Default: cuda")
    parser.add_argument("-np", type=int, default=8, metavar="N", help="[OPTIONAL] number of processes. Default: 8")
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] make the round of this name anew")
    parser.add_argument("--no_pbar", action="store_true", help="[OPTIONAL] no progress bars")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> None:
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    raw = RawDataset.open(args.d)
    source: Model | Elsewhere
    if args.folder is not None:
        if given := [option for name, option in OF_MODELS.items() if getattr(args, name)]:
            raise UserError(
                f"{', '.join(given)}: for a model, and --from takes label maps. Leave it out, or leave out --from."
            )
        source = Elsewhere(args.folder, args.map)
    else:
        if not args.f:
            raise UserError(
                "-f is missing: the folds whose networks predict (such as -f 0), or label maps with --from."
            )
        if args.map:
            raise UserError(
                "--map is for label maps of --from; a model predicts the classes of dataset.json. Leave it out."
            )
        trainer = args.tr or "nnUNetTrainer"
        try:
            folder = Path(get_output_folder(raw.name, trainer, args.p, args.c))
        except RuntimeError as error:  # nnUNet_results is not set
            raise UserError(str(error)) from error
        checkpoint = args.chk or "checkpoint_final.pth"
        source = Model(
            folder,
            trainer,
            args.p,
            args.c,
            tuple(args.f),
            checkpoint,
            args.device or "cuda",
            not args.disable_tta,
            args.trust,
        )
    make_round(
        raw,
        args.p,
        args.c,
        source,
        args.f,
        Selection(args.min_confidence or 0.0, args.gate or 0.0, args.drop, args.previous),
        RoundOptions(args.o, args.save_probabilities, args.np, args.overwrite, not args.no_pbar, args.trust),
    )
