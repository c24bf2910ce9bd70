"""Dice on unlabeled images whose labels are in another data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks import unlabeled_dice
from nnunet_ssl.data.raw_dataset import RawDataset
from tests.helpers.raw_data import use_folders


class Predicts:
    """In the place of nnU-Net's predictor: label 1 where the first channel is above its mean."""

    spacing = None

    def __init__(self, **_):
        self.label_manager = SimpleNamespace(has_regions=False)

    def initialize_from_trained_model_folder(self, folder, folds, checkpoint):
        plans = PlansManager(
            str(Path(folder).parents[2] / "nnUNet_preprocessed" / Path(folder).parent.name / "nnUNetPlans.json")
        )
        self.configuration_manager = SimpleNamespace(spacing=self.spacing or plans.get_configuration("2d").spacing)

    def predict_logits_from_preprocessed_data(self, data):
        above = (data[0] > data[0].mean()).float()
        return torch.stack([1 - above, above])


def test_dice_and_volume_of_each_label_by_hand():
    predicted, reference = np.array([[1, 1, 0, 2, 1]]), np.array([[1, 0, 0, 0, -1]])
    one, two, three = unlabeled_dice.overlaps(predicted, reference, [1, 2, 3])
    assert one == (pytest.approx(2 * 1 / (2 + 1)), 2, 1)
    assert two == (0, 1, 0) and np.isnan(three.dice) and three[1:] == (0, 0)


def test_the_unlabeled_cases_are_measured_on_the_labels_of_the_other_data_set(datasets, tmp_path, monkeypatch, capsys):
    out, name = datasets()
    use_folders(monkeypatch, out)
    (tmp_path / "nnUNet_preprocessed").symlink_to(out / "nnUNet_preprocessed")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    opened = RawDataset.open(name)
    cases = sorted(opened.labeled)[:2]
    monkeypatch.setattr(RawDataset, "open", lambda _: replace(opened, unlabeled={case: [] for case in cases}))
    monkeypatch.setattr(unlabeled_dice, "nnUNetPredictor", Predicts)
    model = tmp_path / "nnUNet_results" / name / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    words = ["-d", name, "-c", "2d", "--labels_of", name, "-tr", "nnUNetTrainer", "--csv", str(tmp_path / "dice.csv")]
    assert unlabeled_dice.main(words) == 1 and "does not exist" in capsys.readouterr().err  # nothing trained
    model.mkdir(parents=True)
    assert unlabeled_dice.main(words) == 1 and "checkpoint_final.pth" in capsys.readouterr().err
    (model / "checkpoint_final.pth").touch()
    monkeypatch.setattr(Predicts, "spacing", [9.0, 9.0])
    assert unlabeled_dice.main(words) == 1 and "same spacing" in capsys.readouterr().err
    monkeypatch.setattr(Predicts, "spacing", None)
    assert unlabeled_dice.main(words) == 0
    table = pd.read_csv(tmp_path / "dice.csv")
    assert sorted(set(table["case"])) == cases and set(table["trainer"]) == {"nnUNetTrainer"}
    assert table["Dice"].dropna().between(0, 1).all() and table["Dice"].max() > 0
    printed = capsys.readouterr().out
    assert f"of {len(cases)}, lowest" in printed
    volumes = table.groupby("class", sort=False)[["predicted", "labeled"]].sum()
    name, voxels = next(volumes.iterrows())
    assert voxels["predicted"] > 0 and f"volume {name} {voxels['predicted'] / voxels['labeled']:.2f}" in printed
    monkeypatch.setattr(RawDataset, "open", lambda _: replace(opened, unlabeled={"nobody": []}))
    assert unlabeled_dice.main(words) == 1 and "lacks nobody" in capsys.readouterr().err
