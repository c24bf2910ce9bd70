"""Dice on unlabeled images whose labels are in another data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import unlabeled_dice
from nnunet_ssl.data.raw_dataset import RawDataset
from tests.helpers.raw_data import use_folders


class Predicts:
    """In the place of nnU-Net's predictor: label 1 where the first channel is above its mean."""

    def __init__(self, **_):
        self.models = []

    def initialize_from_trained_model_folder(self, folder, folds, checkpoint):
        self.models.append((folder, folds, checkpoint))

    def predict_logits_from_preprocessed_data(self, data):
        above = (data[0] > data[0].mean()).float()
        return torch.stack([1 - above, above])


def test_dice_of_each_label_by_hand():
    predicted, reference = np.array([[1, 1, 0, 2, 1]]), np.array([[1, 0, 0, 0, -1]])
    one, two, three = unlabeled_dice.dice_of_classes(predicted, reference, [1, 2, 3])
    assert one == pytest.approx(2 * 1 / (2 + 1)) and two == 0 and np.isnan(three)


def test_the_unlabeled_cases_are_measured_on_the_labels_of_the_other_data_set(datasets, tmp_path, monkeypatch, capsys):
    out, name = datasets()
    use_folders(monkeypatch, out)
    opened = RawDataset.open(name)
    cases = sorted(opened.labeled)[:2]
    monkeypatch.setattr(RawDataset, "open", lambda _: replace(opened, unlabeled={case: [] for case in cases}))
    monkeypatch.setattr(unlabeled_dice, "nnUNetPredictor", Predicts)
    words = ["-d", name, "-c", "2d", "--labels_of", name, "-tr", "nnUNetTrainer", "--csv", str(tmp_path / "dice.csv")]
    assert unlabeled_dice.main(words) == 0
    table = pd.read_csv(tmp_path / "dice.csv")
    assert sorted(set(table["case"])) == cases and set(table["trainer"]) == {"nnUNetTrainer"}
    assert table["Dice"].dropna().between(0, 1).all() and table["Dice"].max() > 0
    assert f"of {len(cases)}, lowest" in capsys.readouterr().out
    monkeypatch.setattr(RawDataset, "open", lambda _: replace(opened, unlabeled={"nobody": []}))
    assert unlabeled_dice.main(words) == 1 and "lacks nobody" in capsys.readouterr().err
