"""Dice of a trained network on the unlabeled images of its data set, whose labels another data set has.

    python -m benchmarks.unlabeled_dice -d 104 -c 3d_fullres_small --labels_of 180 -tr nnUNetTrainerEMA_12epochs --csv FILE

What the network's own labels are worth: self-training makes images with good labels better and others worse, which few validation
cases do not show. No validation or test case is looked at; a method whose parts are chosen by it is tuned on these images, though.
The other data set is of the same images, all labeled, and preprocessed with the same spacing. nnU-Net's sliding window, without
mirroring, at this spacing. Classes, not regions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.raw_dataset import RawDataset, preprocessed_folder
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.evaluation.export import checkpoint_files, model_folder


class Overlap(NamedTuple):
    dice: float  # NaN where neither map has the label
    predicted: int  # voxels
    labeled: int


def overlaps(predicted: np.ndarray, reference: np.ndarray, labels: Sequence[int]) -> list[Overlap]:
    """Of each label. Voxels below 0 of the reference are in no label."""
    found = []
    for label in labels:
        tp, fp, fn, _ = compute_tp_fp_fn_tn(reference == label, predicted == label, reference < 0)
        dice = float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn > 0 else float("nan")
        found.append(Overlap(dice, int(tp + fp), int(tp + fn)))
    return found


def measure(dataset: str, configuration: str, labels_of: str, trainer: str, checkpoint: str) -> pd.DataFrame:
    """Columns case, class, Dice, predicted and labeled (voxels).

    Raises:
        UserError: images, labels or the model are missing, or the images are for another model.
    """
    raw, other = RawDataset.open(dataset), RawDataset.open(labels_of)
    folder = preprocessed_folder(other.name)
    plans = PlansManager(read_json(folder / "nnUNetPlans.json"))
    images = folder / plans.get_configuration(configuration).data_identifier
    if not images.is_dir():
        raise UserError(f"{images} does not exist. Preprocess {other.name} for {configuration}.")
    stored = infer_dataset_class(str(images))
    cases = sorted(raw.unlabeled)
    if missing := sorted(set(cases) - set(stored.get_identifiers(str(images)))):
        raise UserError(
            f"{images} lacks {some(missing, 5)}, unlabeled in {raw.name}. Name the data set that labels them."
        )
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.verbose = predictor.allow_tqdm = False
    model = model_folder(raw.name, trainer, "nnUNetPlans", configuration)
    checkpoint_files(model, ["0"], checkpoint)
    predictor.initialize_from_trained_model_folder(str(model), (0,), checkpoint)
    own, its = predictor.configuration_manager, plans.get_configuration(configuration)
    if list(own.spacing) != list(its.spacing) or "CTNormalization" in its.normalization_schemes:
        raise UserError(
            f"{images} has the spacing {its.spacing} and {its.normalization_schemes}, the model {own.spacing}. Allowed: the same "
            "spacing, and no normalization by the intensities of a data set."
        )
    if predictor.label_manager.has_regions:
        raise UserError(f"{raw.name} has regions. Allowed: classes.")
    names = {
        name: label for name, label in other.dataset_json["labels"].items() if name not in ("background", "ignore")
    }
    rows = []
    for case in cases:
        image, reference, *_ = stored(str(images), [case]).load_case(case)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(image[:], np.float32)))
        found = overlaps(logits.argmax(0).numpy(), np.asarray(reference[0]), [*names.values()])
        rows += [(case, name, *overlap) for name, overlap in zip(names, found, strict=True)]
    return pd.DataFrame(rows, columns=["case", "class", "Dice", "predicted", "labeled"])


def _volumes(table: pd.DataFrame) -> str:
    """Of all cases, predicted over labeled, of each class."""
    of_classes = table.groupby("class", sort=False)[["predicted", "labeled"]].sum()
    shares = of_classes["predicted"] / of_classes["labeled"]
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION")
    parser.add_argument("--labels_of", required=True, metavar="DATASET", help="the one that labels these images")
    parser.add_argument("-tr", nargs="+", required=True, metavar="TRAINER", help="with the suffixes of the run")
    parser.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="Dice and volume of each case")
    args = parser.parse_args(words)
    try:
        tables = {name: measure(args.d, args.c, args.labels_of, name, args.chk) for name in args.tr}
    except UserError as error:
        print(f"unlabeled_dice: {error}", file=sys.stderr)
        return 1
    for name, table in tables.items():
        of_cases = 100 * table.groupby("case")["Dice"].mean()
        print(
            f"{name}: mean {of_cases.mean():.1f}, median {of_cases.median():.1f}, below 70: {(of_cases < 70).sum()} of "
            f"{len(of_cases)}, lowest {of_cases.nsmallest(5).round(0).astype(int).tolist()}, volume {_volumes(table)}"
        )
    if args.csv:
        pd.concat({name: table for name, table in tables.items()}, names=["trainer"]).reset_index("trainer").to_csv(
            args.csv, index=False, float_format="%.4f"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
