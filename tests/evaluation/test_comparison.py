"""Trainers compared on results folders as nnU-Net leaves them: numbers, notes, and what cannot be compared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.comparison import FILES, compare
from nnunet_ssl.evaluation.test_predictions import PredictionSettings
from tests.helpers.study import SHAPE, A, B, Study, cells, guess, refused, run, truth, write


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    return Study.in_environment(tmp_path, monkeypatch)


# ---------------------------------------------------------------------------------------------------------- validation


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


@pytest.mark.parametrize("place", ["preprocessed", "raw"])
@pytest.mark.parametrize("name", ["unlabeled.json", "dataset.json"])
def test_patients_of_both_files_are_the_unit_of_intervals_and_tests(study, place, name):
    study.add_run(A, error=3)
    study.add_run(B, error=1, record_split=True)
    groups = {case: f"patient_{index // 2}" for index, case in enumerate(study.cases[1:])}
    if name == "unlabeled.json":
        UnlabeledList(groups=groups).save(getattr(study, place) / name)
    else:
        (getattr(study, place) / name).write_text(json.dumps({"groups": groups}))
    output = run()
    summary = pd.read_csv(output / "compare_summary.csv").set_index(["trainer", "class", "metric"])
    found = summary.loc[(B, "foreground mean", "Dice")]
    assert (found["n_cases"], found["n_patients"], found["n_pairs"]) == (7, 4, 4)
    assert "7 of 4 patients" in (output / "compare.md").read_text()


def test_one_class_is_not_reported_twice(study):
    study.labels.pop("lesion")
    for i, case in enumerate(study.cases):
        write(np.minimum(truth(i), 1), study.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
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


def test_dense_labels_of_the_validation_that_are_missing_now_are_named(study):
    folder = study.add_run(A, error=4)
    summary = folder / "validation" / "summary.json"
    for i, case in enumerate(study.cases):
        write(truth(i), study.preprocessed / "gt_segmentations_dense" / f"{case}.nii.gz")
    summary.write_text(summary.read_text().replace("gt_segmentations/", "gt_segmentations_dense/"))
    run([A])
    (study.preprocessed / "gt_segmentations_dense" / "case_1.nii.gz").unlink()
    refused("is on dense labels.*`nnunet_ssl preprocess_unlabeled -d 992`.*--val", trainers=[A], overwrite=True)
    summary.write_text(summary.read_text().replace("gt_segmentations_dense/", "elsewhere/"))
    report = (run([A], overwrite=True) / "compare.md").read_text()
    assert (
        "the labels of the training (gt_segmentations), in nnU-Net's own summary.json on others (elsewhere)" in report
    )


@pytest.mark.parametrize("folder", ["gt_segmentations", "gt_segmentations_dense"])
def test_references_with_numbers_of_no_class_are_refused(study, folder):
    study.add_run(A, error=4)
    for i, case in enumerate(study.cases):
        write(truth(i) * (255 if i == 2 else 1), study.preprocessed / folder / f"{case}.nii.gz")
    refused(rf"{folder}/case_2\.nii\.gz: holds 254, 255; allowed in a reference are 0, 1, 2", trainers=[A])


def test_sparse_labels_are_compared_on_the_dense_ones_that_there_are(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    study = Study(tmp_path, labels={"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
    for i, case in enumerate(study.cases):
        reference = truth(i)
        reference[:, :, 20:] = 3
        write(reference, study.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
    study.add_run(A, error=4)
    output = run([A])
    sparse = cells(output)["value"]
    note = "Sparse references: 7 of 7 have the ignore label, on average in 29 % of their voxels"
    assert note in (output / "compare.md").read_text()
    for i, case in enumerate(study.cases):
        write(truth(i), study.preprocessed / "gt_segmentations_dense" / f"{case}.nii.gz")
    output = run(
        [A], overwrite=True
    )  # summary.json of stock nnU-Net is on the sparse ones, and does not count as changed
    assert not np.allclose(sparse, cells(output)["value"], equal_nan=True)
    report = (output / "compare.md").read_text()
    assert "evaluated here on dense labels (gt_segmentations_dense)" in report and "Sparse references" not in report


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


def test_a_run_whose_pseudo_labels_know_validation_cases_is_named(study, capsys):
    study.add_run(A, error=3)
    folder = study.add_run(B, error=1, record_split=True)
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    checkpoint["ssl_state"]["split"]["seen_val"] = ["case_1", "case_2"]
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    (folder / "split.json").write_text(json.dumps(checkpoint["ssl_state"]["split"]))
    os.utime(folder / "checkpoint_final.pth", (0, 0))
    report = (run() / "compare.md").read_text()
    note = f"{B}, fold 0: the networks that made its pseudo labels had learned 2 of its 7 validation cases (case_1, case_2)"
    assert f"**Note.** {note}" in report and note in capsys.readouterr().out
    assert report.count("pseudo labels") == 1


# ------------------------------------------------------------------------------------------------------------- refusals


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


def test_a_replaced_split_that_a_stock_run_may_be_of_is_named(study):
    """Budgets of several seeds: numbers and validation cases agree, training cases do not. A stock run records no cases."""
    study.splits[0]["val"] = study.cases[2:]
    file = study.preprocessed / "splits_final.json"
    file.write_text(json.dumps(study.splits))
    study.add_run(A, error=1, cases=study.cases[2:])
    before = [{"train": ["case_1"], "val": study.cases[2:]}]
    file.with_name("splits_final.json.0.bak").write_text(json.dumps(before))
    file.with_name("splits_final.json.1.bak").write_text(json.dumps([{"train": ["case_0"], "val": study.cases[1:]}]))
    file.with_name("splits_final.json.2.bak").write_text("damaged")
    text = (run([A]) / "compare.md").read_text()
    assert f"Fold 0: {A} recorded how many cases they were trained on, not which. splits_final.json.0.bak has" in text
    assert "splits_final.json.1.bak" not in text and "splits_final.json.2.bak" not in text
    study.add_run(B, error=1, cases=study.cases[2:], record_split=True)
    assert "recorded how many" not in (run([B], overwrite=True) / "compare.md").read_text()


def test_a_summary_without_cases_is_refused(study):
    folder = study.add_run(A, error=1)
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [], "mean": {}}))
    refused("summary.json has no case in metric_per_case.*--val", trainers=[A])


def test_a_class_that_no_reference_shows_is_in_no_foreground_mean(study):
    for index, case in enumerate(study.cases):
        write(np.minimum(truth(index), 1), study.preprocessed / "gt_segmentations" / f"{case}.nii.gz")
    for trainer, error, false in ((A, 2, False), (B, 1, True)):
        folder = study.add_run(trainer, error=error)
        for case in study.splits[0]["val"]:
            prediction = np.minimum(guess(int(case[-1]), error), 1)
            prediction[0, 0, 0] = 2 if false and case == "case_1" else 0
            write(prediction, folder / "validation" / f"{case}.nii.gz")
        study.summarize(folder)
    output = run()
    summary = pd.read_csv(output / "compare_summary.csv").query("metric == 'Dice'").set_index(["trainer", "class"])
    for trainer in (A, B):
        foreground, organ = summary.loc[(trainer, "foreground mean")], summary.loc[(trainer, "organ")]
        assert foreground["mean"] == organ["mean"] and foreground["n"] == 7
    assert summary.loc[(B, "foreground mean"), "n_unpaired"] == 0 and summary.loc[(B, "lesion"), "mean"] == 0
    text = (output / "compare.md").read_text()
    assert f"No reference shows lesion; {B} labels it in some case" in text


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


@pytest.mark.parametrize("name", ["compare.md", "compare.png", "compare_cases.csv", "compare_summary.csv"])
def test_a_file_of_the_user_is_not_replaced(study, tmp_path, name):
    study.add_run(A, error=1)
    output = tmp_path / "mine"
    output.mkdir()
    (output / name).write_text("mine")
    refused(
        "holds a comparison already" if name == "compare.md" else rf"holds {name}, which", trainers=[A], output=output
    )
    assert (output / name).read_text() == "mine" and len(list(output.iterdir())) == 1
    run([A], output=output, overwrite=True)
    assert (output / name).read_bytes() != b"mine"


def test_what_an_interrupted_comparison_has_left_is_replaced(study, monkeypatch):
    study.add_run(A, error=1)
    output = study.results / "compare_2d_0"
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("compare.md"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(os, "replace", killed)
        run([A])
    assert (output / "compare.png").exists() and not (output / "compare.md").exists()
    run([A])
    assert sorted(file.name for file in output.iterdir()) == sorted(FILES)


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
        ({"settings": PredictionSettings(mirroring=False)}, "--disable_tta: for predictions of test cases"),
        (
            {"settings": PredictionSettings("checkpoint_best.pth")},
            "-chk checkpoint_best.pth: for predictions of test cases",
        ),
    ],
)
def test_impossible_requests_are_refused(study, options, match):
    study.add_run(A, error=1)
    refused(match, **options)


def test_an_unset_folder_variable_and_an_unknown_data_set_are_named(study, monkeypatch):
    with pytest.raises(UserError, match="data set 993"):
        compare("993", "2d", ["0"], [A])
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match="nnUNet_results is not set"):
        compare("992", "2d", ["0"], [A])
