"""A study as nnU-Net leaves it: trainers with validation folders, checkpoints and logs, to be compared."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import statistics
from nnunet_ssl.evaluation.comparison import compare
from tests.helpers.synthetic import make_plans

DATASET = "Dataset992_Compare"
SHAPE = (6, 30, 28)
A, B = "nnUNetTrainer", "nnUNetTrainerMeanTeacher_2epochs_5iters_seed3"


def truth(index: int) -> np.ndarray:
    """Label 1 around label 2; the last case has no label 2."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    distance = np.sqrt(((z - 3) * 3) ** 2 + (y - 13 - index % 3) ** 2 + (x - 14) ** 2)
    label = np.where(distance < 9, 1, 0)
    return np.where((distance < 5) & (index != 7), 2, label).astype(np.uint8)


def guess(index: int, error: int) -> np.ndarray:
    """`truth` moved by `error` voxels along x, with ragged edges that depend on the case."""
    label = np.roll(truth(index), error, axis=2)
    rng = np.random.default_rng([index, error])
    return np.where(rng.random(SHAPE) < 0.01 * (1 + index), 0, label).astype(np.uint8)


def write(array: np.ndarray, file: Path, spacing=(0.5, 1.0, 3.0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


class Study:
    """Raw, preprocessed and results folders of a data set with 8 training cases, of which fold 0 validates on all but one."""

    def __init__(self, root: Path, labels: dict | None = None):
        self.raw, self.preprocessed, self.results = (
            root / name / DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        self.labels = labels or {"background": 0, "organ": 1, "lesion": 2}
        self.dataset = {"channel_names": {"0": "MR"}, "labels": self.labels, "numTraining": 8, "file_ending": ".nii.gz"}
        if any(isinstance(label, list) for label in self.labels.values()):
            self.dataset["regions_class_order"] = [1, 2]
        self.plans = make_plans(DATASET)
        self.cases = [f"case_{i}" for i in range(8)]
        self.splits = [
            {"train": self.cases[:1], "val": self.cases[1:]},
            {"train": self.cases[4:], "val": self.cases[:4]},
        ]
        self.raw.mkdir(parents=True)
        for i, case in enumerate(self.cases):
            write(truth(i), self.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
        (self.preprocessed / "splits_final.json").write_text(json.dumps(self.splits))

    @classmethod
    def in_environment(cls, root: Path, monkeypatch, **options) -> Study:
        """A study below `root`, to which nnU-Net's variables point."""
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(name, str(root / name))
        monkeypatch.setenv("nnUNet_compile", "f")
        monkeypatch.setattr(statistics, "RESAMPLES", 99)  # the intervals have tests of their own
        return cls(root, **options)

    def folder(self, trainer: str, fold: int | str = 0, configuration: str = "2d") -> Path:
        return self.results / f"{trainer}__nnUNetPlans__{configuration}" / f"fold_{fold}"

    def add_run(self, trainer: str, error: int, fold: int | str = 0, cases=None, seed=None, record_split=False) -> Path:
        """Results of one fold. `error`: how wrong the predictions are."""
        folder = self.folder(trainer, fold)
        (folder / "validation").mkdir(parents=True)
        (folder.parent / "dataset.json").write_text(json.dumps(self.dataset))
        (folder.parent / "plans.json").write_text(json.dumps(self.plans))
        split = self.splits[fold] if fold != "all" else {"train": self.cases, "val": self.cases}
        for case in cases or split["val"]:
            write(guess(int(case[-1]), error), folder / "validation" / f"{case}.nii.gz")
        self.summarize(folder)
        checkpoint = {"logging": {"train_losses": [0.5, 0.4]}, "network_weights": {}, "trainer_name": trainer}
        checkpoint["init_args"] = {"configuration": "2d"}
        if record_split:
            recorded = {**split, "hash": split_hash(split)[:12], "unlabeled": ["u1", "u2", "u3"]}
            checkpoint["ssl_state"] = {"split": recorded, "seed": seed}
            (folder / "split.json").write_text(json.dumps(recorded))
        torch.save(checkpoint, folder / "checkpoint_final.pth")
        os.utime(folder / "checkpoint_final.pth", (0, 0))
        self.write_log(folder, len(split["train"]), len(split["val"]))
        (folder / "debug.json").write_text(json.dumps({"num_iterations_per_epoch": "250"}))
        return folder

    def summarize(self, folder: Path) -> None:
        """summary.json by nnU-Net's own function for a case."""
        names = [value for name, value in self.labels.items() if name not in ("background", "ignore")]
        targets = [tuple(value) if isinstance(value, list) else value for value in names]
        per_case = [
            compute_metrics(
                str(self.preprocessed / "gt_segmentations" / file.name),
                str(file),
                SimpleITKIO(),
                targets,
                self.labels.get("ignore"),
            )
            for file in sorted((folder / "validation").glob("*.nii.gz"))
        ]
        for entry in per_case:  # json knows no numpy integers
            for values in entry["metrics"].values():
                values.update({key: float(value) for key, value in values.items()})
        save_summary_json({"metric_per_case": per_case, "mean": {}}, str(folder / "validation" / "summary.json"))

    @staticmethod
    def write_log(folder: Path, train: int, val: int, name: str = "2026_9_3_10_00_00", epochs=(0, 1)) -> None:
        lines = [f"This split has {train} training and {val} validation cases."]
        lines += [f"Epoch {epoch}" for epoch in epochs]
        text = "".join(f"2026-09-03 10:00:00.123: {line} \n" for line in lines)
        (folder / f"training_log_{name}.txt").write_text(text)

    def add_test_cases(self, number: int = 3) -> None:
        """A raw data set whose first `number` cases are also test cases, by other names and with other noise."""
        rng = np.random.default_rng(0)
        (self.raw / "dataset.json").write_text(json.dumps(self.dataset))
        for i, case in enumerate(self.cases):
            write(truth(i), self.raw / "labelsTr" / f"{case}.nii.gz")
            write(truth(i).astype(np.float32), self.raw / "imagesTr" / f"{case}_0000.nii.gz")
        for i in range(number):
            write(truth(i), self.raw / "labelsTs" / f"test_{i}.nii.gz")
            image = (truth(i) + rng.normal(0, 0.2, SHAPE)).astype(np.float32)
            write(image, self.raw / "imagesTs" / f"test_{i}_0000.nii.gz")


def run(trainers=(A, B), folds=("0",), **options) -> Path:
    return compare("992", "2d", list(folds), list(trainers), num_processes=1, **options)


def cells(output: Path) -> pd.DataFrame:
    return pd.read_csv(
        output / "compare_cases.csv", dtype={"fold": str}, keep_default_na=False, na_values={"value": [""]}
    )


def refused(match: str, **options) -> None:
    with pytest.raises(UserError, match=match):
        run(**options)
