"""`nnunet_ssl compare` on results folders as nnU-Net leaves them, and with predictions by stock nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, compute_metrics_on_folder, save_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import runs as results_of
from nnunet_ssl.evaluation import statistics
from nnunet_ssl.evaluation.comparison import compare
from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.test_predictions import PredictionSettings, find_test_cases, predict_test
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
        checkpoint = {"logging": {"train_losses": [0.5, 0.4]}, "network_weights": {}}
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
        rng = np.random.default_rng(0)
        for i in range(number):
            write(truth(i), self.raw / "labelsTs" / f"test_{i}.nii.gz")
            image = (truth(i) + rng.normal(0, 0.2, SHAPE)).astype(np.float32)
            write(image, self.raw / "imagesTs" / f"test_{i}_0000.nii.gz")


@pytest.fixture
def study(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setattr(statistics, "RESAMPLES", 99)  # the intervals have tests of their own
    return Study(tmp_path)


def run(trainers=(A, B), folds=("0",), **options) -> Path:
    return compare("992", "2d", list(folds), list(trainers), num_processes=1, **options)


def cells(output: Path) -> pd.DataFrame:
    return pd.read_csv(
        output / "compare_cases.csv", dtype={"fold": str}, keep_default_na=False, na_values={"value": [""]}
    )


# ---------------------------------------------------------------------------------------------------------- validation


def test_the_command_writes_report_tables_and_figure_with_a_pool_of_processes(study, capsys):
    study.add_run(A, error=3)
    study.add_run(B, error=1, record_split=True)
    assert main(["compare", "-d", "992", "-c", "2d", "-f", "0", "-tr", A, B, "-np", "2"]) == 0
    output = study.results / "compare_2d_0"
    report = (output / "compare.md").read_text()
    assert report in capsys.readouterr().out
    table = cells(output)
    assert list(table) == ["trainer", "fold", "case", "class", "metric", "unit", "value", "empty"]
    assert len(table) == 2 * 7 * 2 * len(METRICS)
    for part in (DATASET, "2d", "nnUNetPlans", f"fold 0: {split_hash(study.splits[0])[:12]}", "organ, lesion"):
        assert part in report
    assert "| no: validation cases of the folds" in report and "medpy.metric.binary" in report
    assert (output / "compare.png").read_bytes().startswith(b"\x89PNG")
    summary = pd.read_csv(output / "compare_summary.csv")
    assert len(summary) == 2 * 3 * len(METRICS)


def test_dice_and_foreground_mean_equal_what_nnunet_writes(study, tmp_path):
    folder = study.add_run(A, error=2)
    output = run([A])
    nnunet = compute_metrics_on_folder(
        str(study.preprocessed / "gt_segmentations"),
        str(folder / "validation"),
        None,
        SimpleITKIO(),
        ".nii.gz",
        [1, 2],
        num_processes=1,
    )
    table = cells(output).set_index(["case", "class", "metric"])["value"]
    for entry in nnunet["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(".nii.gz")
        for name, label in (("organ", 1), ("lesion", 2)):
            for ours, theirs in (("Dice", "Dice"), ("Jaccard", "IoU")):
                expected = 100 * entry["metrics"][label][theirs]
                assert table[case, name, ours] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(table["case_7", "lesion", "Dice"])  # empty in both: the comparison above met this case as well
    summary = pd.read_csv(output / "compare_summary.csv").query("metric == 'Dice'").set_index("class")
    assert summary.loc["foreground mean", "mean"] == pytest.approx(100 * nnunet["foreground_mean"]["Dice"])
    assert (summary.loc["lesion", "n"], summary.loc["lesion", "n_empty_both"]) == (6, 1)


def test_the_better_trainer_is_better_in_every_pair(study):
    study.add_run(A, error=3)
    study.add_run(B, error=1, record_split=True)
    output = run()
    summary = pd.read_csv(output / "compare_summary.csv").set_index(["trainer", "class", "metric", "unit"])
    dice = summary.loc[B, "foreground mean", "Dice", "%"]
    assert dice["compared_with"] == A and dice["n_pairs"] == 7 and dice["median_difference"] > 5
    assert dice["p"] == dice["p_holm"] == pytest.approx(2 / 2**7)
    assert summary.loc[B, "organ", "95HD", "mm"]["median_difference"] < 0
    assert "p 0.016, Holm 0.016 (7)" in (output / "compare.md").read_text()


def test_epochs_iterations_seed_and_unlabeled_cases_of_each_run_are_shown(study):
    study.add_run(A, error=3)
    folder = study.add_run(B, error=1, record_split=True)
    (folder / "debug.json").unlink()
    report = (run() / "compare.md").read_text()
    runs = report.split("## Runs")[1].split("##")[0].splitlines()
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in runs if line.startswith("|")
    }
    assert rows[A][:6] == ["0", "2", "250", "-", "1", "-"]
    assert rows[B][:6] == ["0", "2", "5", "3", "1", "3"]
    assert "numbers of cases in the log" in rows[A][6] and "cases in the checkpoint" in rows[B][6]


def test_several_folds_are_pooled_and_a_case_in_two_of_them_counts_once(study):
    for trainer, error in ((A, 3), (B, 1)):
        for fold in (0, 1):
            study.add_run(trainer, error, fold=fold)
    output = run(folds=["0", "1"])
    assert output.name == "compare_2d_0_1"
    assert set(cells(output)["fold"]) == {"0", "1"}
    summary = pd.read_csv(output / "compare_summary.csv")
    assert set(summary["n_cases"]) == {8}  # 7 + 4 predictions of 8 cases
    assert "of 4 validation cases" not in (output / "compare.md").read_text()


def test_one_class_is_not_reported_twice(study):
    study.labels.pop("lesion")
    study.add_run(A, error=3)
    report = (run([A]) / "compare.md").read_text()
    assert "### foreground mean = organ" in report and "### organ" not in report


def test_fold_all_says_that_it_validated_on_training_cases(study):
    for trainer, error in ((A, 3), (B, 1)):
        study.add_run(trainer, error, fold="all")
    report = (run(folds=["all"]) / "compare.md").read_text()
    assert "8 of 8 validation cases are training cases" in report


def test_a_protocol_that_validates_on_its_training_cases_is_named_as_such(study):
    study.splits[0] = {"train": study.cases[:4], "val": study.cases[:4]}
    (study.preprocessed / "splits_final.json").write_text(json.dumps(study.splits))
    study.add_run(A, error=3)
    assert "4 of 4 validation cases are training cases" in (run([A]) / "compare.md").read_text()


def test_regions_and_ignore_label_agree_with_nnunet(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    study = Study(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})
    for i, case in enumerate(study.cases):
        reference = truth(i)
        reference[:, :, 20:] = 3
        write(reference, study.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
    study.add_run(A, error=4)
    output = run([A])  # refuses if a Dice differs from summary.json
    assert list(dict.fromkeys(cells(output)["class"])) == ["whole", "core"]


def test_sparse_labels_are_compared_on_the_dense_ones_that_there_are(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    study = Study(tmp_path, labels={"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
    for i, case in enumerate(study.cases):
        reference = truth(i)
        reference[:, :, 20:] = 3
        write(reference, study.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
    study.add_run(A, error=4)
    sparse = cells(run([A]))["value"]
    for i, case in enumerate(study.cases):
        write(truth(i), study.preprocessed / "gt_segmentations_dense" / f"{case}.nii.gz")
    output = run(
        [A], overwrite=True
    )  # summary.json of stock nnU-Net is on the sparse ones, and does not count as changed
    assert not np.allclose(sparse, cells(output)["value"], equal_nan=True)
    assert "evaluated here on dense labels (gt_segmentations_dense)" in (output / "compare.md").read_text()


def test_a_class_counts_only_in_the_cases_that_annotate_it(study):
    partial = {"cases": {"case_1": ["organ"], "case_2": ["organ"], "case_3": []}}
    folders = [study.add_run(trainer, error).parent for trainer, error in ((A, 3), (B, 1))]
    for folder in folders:
        (folder / "dataset.json").write_text(json.dumps(study.dataset | {"partial_labels": partial}))
    output = run()
    table = cells(output)
    dice = table[(table["metric"] == "Dice") & (table["trainer"] == A)].set_index(["case", "class"])
    hidden = {("case_1", "lesion"), ("case_2", "lesion"), ("case_3", "lesion"), ("case_3", "organ")}
    for index, row in dice.iterrows():
        assert (row["empty"] == "not annotated") == (index in hidden)
        assert np.isnan(row["value"]) == (index in hidden or index == ("case_7", "lesion"))
    report = (output / "compare.md").read_text()
    assert "organ in 6, lesion in 4 of 7 cases" in report
    written = pd.read_csv(output / "compare_summary.csv")
    row = written[(written["trainer"] == A) & (written["class"] == "lesion") & (written["metric"] == "Dice")].iloc[0]
    counted = dice.xs("lesion", level="class")["value"].dropna()
    assert row["n"] == 3 and row["mean"] == pytest.approx(counted.mean())
    for i, case in enumerate(study.cases[1:], start=1):  # dense labels have everything
        write(truth(i), study.preprocessed / "gt_segmentations_dense" / f"{case}.nii.gz")
    table = cells(run(overwrite=True))
    assert not (table["empty"] == "not annotated").any()
    (folders[1] / "dataset.json").write_text(json.dumps(study.dataset))
    refused("'partial_labels' of", overwrite=True)


def test_a_missed_class_is_zero_dice_has_no_distance_and_is_counted_in_the_report(study):
    study.add_run(A, error=1)
    folder = study.add_run(B, error=1)
    write(np.zeros(SHAPE, np.uint8), folder / "validation" / "case_2.nii.gz")
    study.summarize(folder)
    output = run()
    table = (
        cells(output).query("trainer == @B and case == 'case_2' and `class` == 'organ'").set_index(["metric", "unit"])
    )
    assert table.loc[("Dice", "%"), "value"] == 0 and np.isnan(table.loc[("95HD", "mm"), "value"])
    assert set(table["empty"]) == {"prediction"}
    summary = pd.read_csv(output / "compare_summary.csv").set_index(["trainer", "class", "metric", "unit"])
    hd = summary.loc[B, "organ", "95HD", "mm"]
    assert (hd["n"], hd["n_empty_prediction"], hd["n_pairs"], hd["n_unpaired"]) == (6, 1, 6, 1)
    report = (output / "compare.md").read_text()
    assert "(6; 1 dropped)" in report
    organ = report.split("### organ")[1].split("###")[0].splitlines()
    header, row = (
        [cell.strip() for cell in line.split("|")] for line in organ if line.startswith(("| trainer", f"| {B}"))
    )
    assert dict(zip(header, row))["missed"] == "1" and dict(zip(header, row))["both empty"] == "0"


def test_a_validation_older_than_the_checkpoint_and_other_plans_are_noted(study):
    study.add_run(A, error=3)
    folder = study.add_run(B, error=1)
    os.utime(folder / "validation" / "summary.json", (1, 1))
    os.utime(folder / "checkpoint_final.pth", (9, 9))
    study.plans["configurations"]["2d"]["batch_size"] = 77
    (folder.parent / "plans.json").write_text(json.dumps(study.plans))
    report = (run() / "compare.md").read_text()
    assert f"The validation of {B}, fold 0, is older than its checkpoint" in report and "--val" in report
    assert "different plans: batch_size differ" in report


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(match: str, **options) -> None:
    with pytest.raises(UserError, match=match):
        run(**options)


def test_a_trainer_without_results_is_named_with_the_command_and_the_trainers_there_are(study):
    study.add_run(A, error=1)
    refused(rf"(?s){B} has no results.*2d and nnUNetPlans: {A}\..*nnUNetv2_train 992 2d 0 -tr {B}")


def test_a_missing_fold_is_named_with_the_command(study):
    study.add_run(A, error=1)
    refused(
        rf"fold_1 does not exist; found fold_0\. Train it: nnUNetv2_train 992 2d 1 -tr {A}", trainers=[A], folds=["1"]
    )


def test_a_missing_validation_is_named_with_the_command(study):
    shutil.rmtree(study.add_run(A, error=1) / "validation")
    refused(rf"validation does not exist.*nnUNetv2_train 992 2d 0 -tr {A} --val", trainers=[A])


def test_an_unfinished_validation_is_refused(study):
    study.add_run(A, error=1)
    (study.add_run(B, error=1) / "validation" / "summary.json").unlink()
    refused(rf"unfinished: 7 predictions and no summary.json.*-tr {B} --val")


def test_predictions_that_changed_after_the_validation_are_refused(study):
    folder = study.add_run(A, error=1)
    write(guess(3, 5), folder / "validation" / "case_3.nii.gz")
    refused("(?s)summary.json: nnU-Net found Dice .*case_3.*have changed since.*--val", trainers=[A])


def test_a_prediction_on_another_grid_is_refused_through_the_command(study, capsys):
    folder = study.add_run(A, error=1)
    write(guess(3, 1), folder / "validation" / "case_3.nii.gz", spacing=(0.5, 1.0, 4.0))
    assert main(["compare", "-d", "992", "-c", "2d", "-f", "0", "-tr", A, "-np", "1"]) == 1
    message = capsys.readouterr().err
    assert "case_3.nii.gz" in message and "spacing" in message and "--val" in message
    assert not (study.results / "compare_2d_0").exists()


def test_runs_with_different_recorded_splits_are_refused(study):
    study.add_run(A, error=1)
    folder = study.add_run(B, error=1, record_split=True)
    other = json.loads((folder / "split.json").read_text())
    other["train"] = ["case_9"]
    (folder / "split.json").write_text(json.dumps(other))
    refused(
        rf"(?s)fold 0 do not share one split.*{A}, {B}.*{B}, cases in split.json: training cases differ from "
        rf"splits_final.json: 1 more \(case_9\), 1 missing \(case_0\).*No difference was found for {A}"
    )


def test_a_split_in_the_checkpoint_alone_is_enough_to_refuse(study):
    study.add_run(A, error=1)
    folder = study.add_run(B, error=1, record_split=True)
    (folder / "split.json").unlink()
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    checkpoint["ssl_state"]["split"]["train"] = ["case_0", "case_9"]
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    refused(rf"(?s){B}, cases in the checkpoint: training cases differ .*1 more \(case_9\)")


def test_runs_that_validated_on_different_cases_are_refused(study):
    study.add_run(A, error=1)
    study.add_run(B, error=1, cases=["case_1", "case_2"])
    refused(rf"(?s){B}, validation cases: validation cases differ.*5 missing \(case_3, ")


def test_stock_runs_of_fold_all_that_validated_on_different_cases_are_refused(study):
    study.add_run(A, error=1, fold="all")
    study.add_run(B, error=1, fold="all", cases=study.cases[:6])
    refused(rf"(?s){B}, validation cases.*differ from {A} \(validation cases\): 2 missing", folds=["all"])


def test_a_stock_run_whose_log_tells_other_numbers_of_cases_is_refused(study):
    study.write_log(study.add_run(A, error=1), train=4, val=7)
    refused(r"(?s)numbers of cases in the log: 4 training cases, 1 in splits_final.json", trainers=[A])


def test_the_log_of_the_last_training_counts_and_not_older_ones_or_those_of_a_validation(study):
    folder = study.add_run(A, error=1)
    study.write_log(folder, 4, 7, name="2026_9_2_10_00_00")  # an earlier training in the same folder
    study.write_log(folder, 1, 7, name="2026_9_10_10_00_00")  # of September 10: the training, by number and not by text
    study.write_log(folder, 5, 7, name="2026_10_1_10_00_00", epochs=())  # --val, another day
    run([A])
    study.write_log(folder, 6, 7, name="2026_9_11_10_00_00", epochs=(1,))  # that training continued on another split
    refused("6 training cases, 1 in splits_final.json", trainers=[A], overwrite=True)


def test_a_splits_file_written_after_the_runs_is_refused(study):
    study.add_run(A, error=1)
    study.add_run(B, error=1, record_split=True)
    study.splits[0]["train"], study.splits[0]["val"] = ["case_0", "case_1"], study.cases[2:]
    (study.preprocessed / "splits_final.json").write_text(json.dumps(study.splits))
    refused(rf"(?s){A}, validation cases.*1 more \(case_1\).*nnUNetv2_train 992 2d 0 -tr {A}\n")


def test_a_fold_beyond_the_splits_file_is_refused(study):
    study.splits.append(study.splits[0])
    study.add_run(A, error=1, fold=2)
    refused("holds the folds 0 to 1, not fold 2", trainers=[A], folds=["2"])


def test_runs_are_compared_with_each_other_without_a_splits_file(study):
    study.add_run(A, error=1)
    folder = study.add_run(B, error=1, record_split=True)
    (study.preprocessed / "splits_final.json").unlink()
    output = run()
    assert "splits_final.json was not found" in (output / "compare.md").read_text()
    assert split_hash(study.splits[0])[:12] in (output / "compare.md").read_text()
    study.write_log(study.folder(A), train=2, val=7)
    refused(rf"(?s){B}, cases in the checkpoint: 1 training cases, 2 in {A} \(numbers", overwrite=True)
    assert (folder / "split.json").is_file()


def test_models_with_different_labels_are_refused(study):
    study.add_run(A, error=1)
    study.labels["lesion"], study.labels["organ"] = 1, 2
    study.add_run(B, error=1)
    refused(rf"(?s){A} and {B} were trained with different data sets: 'labels'")


def test_a_missing_reference_is_refused(study):
    study.add_run(A, error=1)
    (study.preprocessed / "gt_segmentations" / "case_4.nii.gz").unlink()
    refused("(?s)gt_segmentations has no reference for 1 validation cases: case_4", trainers=[A])


def test_an_existing_comparison_is_replaced_only_with_overwrite(study):
    study.add_run(A, error=1)
    output = run([A])
    (output / "compare.md").write_text("mine")
    refused("holds a comparison already", trainers=[A])
    assert (output / "compare.md").read_text() == "mine"
    run([A], overwrite=True)
    assert (output / "compare.md").read_text() != "mine"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"folds": ["0", "all"]}, "cannot be mixed"),
        ({"folds": ["x"]}, "-f x: allowed are numbers"),
        ({"folds": ["0", "0"]}, "names a fold twice"),
        ({"trainers": [A, A]}, "names a trainer twice"),
    ],
)
def test_impossible_requests_are_refused(study, options, match):
    study.add_run(A, error=1)
    refused(match, **options)


def test_an_unset_folder_variable_and_an_unknown_data_set_are_named(study, monkeypatch):
    with pytest.raises(UserError, match="-d 993"):
        compare("993", "2d", ["0"], [A])
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match="nnUNet_results is not set"):
        compare("992", "2d", ["0"], [A])


# ------------------------------------------------------------------------------------------------------------ test cases


def train_nothing(study: Study, trainer_class: type, fold: int, seed: int) -> Path:
    """What a finished training leaves behind, of an untrained network, written by nnU-Net itself."""
    torch.manual_seed(seed)
    preprocessed = study.preprocessed / "nnUNetPlans_2d"
    preprocessed.mkdir(exist_ok=True)
    (preprocessed / "case_0.b2nd").touch()  # nnU-Net looks at the ending only
    trainer = trainer_class(study.plans | {"continue_training": False}, "2d", fold, study.dataset, torch.device("cpu"))
    trainer.initialize()
    folder = Path(trainer.output_folder)
    trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    for name, content in (("plans", study.plans), ("dataset", study.dataset)):
        (folder.parent / f"{name}.json").write_text(json.dumps(content))
    study.write_log(folder, len(study.splits[fold]["train"]), len(study.splits[fold]["val"]))
    return folder


@pytest.fixture
def predictions(monkeypatch):
    """Replaces the prediction itself by copies of the truth; the list of what was asked for."""
    calls = []

    def predict(self, images, outputs, folder_with_segs_from_prev_stage=None, **options):
        calls.append(
            {
                "cases": [Path(output).name for output in outputs],
                "folder": Path(outputs[0]).parent,
                "previous": folder_with_segs_from_prev_stage,
                "mirroring": self.use_mirroring,
                "parameters": len(self.list_of_parameters),
            }
        )
        for i, output in enumerate(outputs):
            write(truth(i), Path(f"{output}.nii.gz"))

    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", predict)
    return calls


SETTINGS = PredictionSettings(device="cpu", num_processes=1)


def test_test_cases_are_predicted_by_stock_nnunet_and_equal_its_own_prediction(study):
    study.add_test_cases(2)
    train_nothing(study, nnUNetTrainer_5epochs, 0, seed=0)
    output = run(["nnUNetTrainer_5epochs"], test=True, settings=SETTINGS)
    assert output.name == "compare_2d_0_test"
    report = (output / "compare.md").read_text()
    assert "yes: imagesTs against labelsTs" in report and "with mirroring" in report
    table = cells(output)
    assert set(table["case"]) == {"test_0", "test_1"}

    model = study.folder("nnUNetTrainer_5epochs").parent
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    direct = study.results / "direct"
    direct.mkdir()
    predictor.predict_from_files_sequential(str(study.raw / "imagesTs"), str(direct))
    for case in ("test_0", "test_1"):
        arrays = [
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
            for folder in (direct, model / "test_folds_0")
        ]
        np.testing.assert_array_equal(*arrays)
        assert len(np.unique(arrays[0])) > 1
        dice = compute_metrics(
            str(study.raw / "labelsTs" / f"{case}.nii.gz"), str(direct / f"{case}.nii.gz"), SimpleITKIO(), [1]
        )["metrics"][1]["Dice"]
        rows = table[(table["case"] == case) & (table["class"] == "organ") & (table["metric"] == "Dice")]
        ours = rows["value"].item()
        assert ours == pytest.approx(100 * dice)


def test_predictions_are_kept_and_made_again_only_when_checkpoint_or_images_change(study, predictions):
    study.add_test_cases()
    checkpoint = train_nothing(study, nnUNetTrainer, 0, seed=0) / "checkpoint_final.pth"
    options = {"trainers": [A], "test": True, "settings": SETTINGS, "overwrite": True}
    report = (run(**options) / "compare.md").read_text()
    assert "100.00" in report and len(predictions) == 1
    assert predictions[0]["cases"] == ["test_0", "test_1", "test_2"] and predictions[0]["mirroring"]
    os.utime(checkpoint)
    run(**options)
    assert len(predictions) == 1
    train_nothing(study, nnUNetTrainer, 0, seed=1)
    run(**options)
    assert len(predictions) == 2
    write(np.zeros(SHAPE, np.float32), study.raw / "imagesTs" / "test_1_0000.nii.gz")
    run(**options)
    assert len(predictions) == 3
    run(**(options | {"settings": PredictionSettings(device="cpu", mirroring=False)}))
    assert len(predictions) == 4 and not predictions[3]["mirroring"]
    names = sorted(path.name for path in checkpoint.parents[1].glob("test_folds*"))
    assert names == ["test_folds_0", "test_folds_0_no_mirroring"]


def test_an_interrupted_prediction_is_not_taken_as_complete(study, predictions, monkeypatch):
    study.add_test_cases()
    model = train_nothing(study, nnUNetTrainer, 0, seed=0).parent
    complete = nnUNetPredictor.predict_from_files

    def interrupted(self, images, outputs, **options):
        complete(self, images[:1], outputs[:1], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([A], test=True, settings=SETTINGS)
    assert not (model / "test_folds_0").exists() and not (study.results / "compare_2d_0_test").exists()
    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", complete)
    run([A], test=True, settings=SETTINGS)
    assert predictions[-1]["cases"] == ["test_0", "test_1", "test_2"]
    assert [path.name for path in model.glob("test_folds*")] == ["test_folds_0"]


def test_several_folds_predict_the_test_cases_as_one_ensemble(study, predictions):
    study.add_test_cases()
    for fold in (0, 1):
        train_nothing(study, nnUNetTrainer, fold, seed=fold)
    output = run([A], folds=["0", "1"], test=True, settings=SETTINGS)
    assert predictions[0]["parameters"] == 2 and set(cells(output)["fold"]) == {"0_1"}
    assert "ensemble of 2 folds" in (output / "compare.md").read_text()
    assert (study.folder(A).parent / "test_folds_0_1").is_dir()


def test_a_cascade_gets_the_predictions_of_its_first_stage(study, predictions, monkeypatch):
    study.add_test_cases()

    def load(self, folder, folds, checkpoint_name):
        self.list_of_parameters = [{}]

    monkeypatch.setattr(nnUNetPredictor, "initialize_from_trained_model_folder", load)
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        folder = study.folder(A, configuration=configuration)
        folder.mkdir(parents=True)
        (folder.parent / "dataset.json").write_text(json.dumps(study.dataset))
        (folder.parent / "plans.json").write_text(json.dumps(study.plans))
        (folder / "checkpoint_final.pth").write_bytes(b"weights")
    experiment = results_of.Experiment(DATASET, "3d_cascade_fullres")
    cases = find_test_cases(experiment, ".nii.gz")
    predict_test(experiment, A, (0,), cases, SETTINGS)
    first_stage = study.folder(A, configuration="3d_lowres").parent / "test_folds_0"
    assert [call["previous"] for call in predictions] == [None, str(first_stage)]
    assert first_stage.is_dir()


def test_images_without_a_reference_are_left_out_and_counted(study, predictions):
    study.add_test_cases()
    trainers = [A, "nnUNetTrainer_5epochs"]
    for trainer_class in (nnUNetTrainer, nnUNetTrainer_5epochs):
        train_nothing(study, trainer_class, 0, seed=0)
    (study.raw / "labelsTs" / "test_2.nii.gz").unlink()
    output = run(trainers, test=True, settings=SETTINGS)
    assert "1 images of imagesTs have no reference" in (output / "compare.md").read_text()
    assert [call["cases"] for call in predictions] == [["test_0", "test_1"]] * 2
    assert set(cells(output)["trainer"]) == set(trainers)


def test_test_runs_whose_splits_differ_are_refused_before_anything_is_predicted(study, predictions):
    study.add_test_cases()
    study.write_log(train_nothing(study, nnUNetTrainer, 0, seed=0), train=3, val=7)
    refused("3 training cases, 1 in splits_final.json", trainers=[A], test=True, settings=SETTINGS)
    assert not predictions


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda study: shutil.rmtree(study.raw / "labelsTs"), "labelsTs holds no label file"),
        (lambda study: (study.raw / "imagesTs" / "test_1_0000.nii.gz").unlink(), "no image CASE_0000.nii.gz .* test_1"),
        (lambda study: (study.folder(A) / "checkpoint_final.pth").unlink(), "-tr nnUNetTrainer --c.*-chk"),
        (lambda study: (study.folder(A) / "checkpoint_final.pth").write_bytes(b"broken"), "cannot be read"),
        (lambda study: (study.folder(A).parent / "test_folds_0").mkdir(), "was not written by this command"),
    ],
)
def test_what_is_missing_for_test_predictions_is_named(study, predictions, damage, match):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    damage(study)
    refused(match, trainers=[A], test=True, settings=SETTINGS)
    assert not predictions


def test_a_missing_gpu_is_named(study, predictions, monkeypatch):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("no CUDA device. Predict with -device cpu", trainers=[A], test=True)
