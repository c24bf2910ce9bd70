"""What comes back from a GPU machine, and how it is brought into the records."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import study_report
from benchmarks.gpu import collect
from nnunet_ssl.errors import UserError

LOG = """t: Epoch 0
t: train_loss -0.1
t: val_loss -0.2
t: Pseudo dice [np.float32(0.5), np.float32(0.7)]
t: Epoch time: 3.5 s
t: Epoch 1
t: train_loss -0.3
"""
AGAIN = """t: Epoch 1
t: train_loss -0.4
t: val_loss -0.5
t: Pseudo dice [0.6, nan]
t: Epoch time: 4.0 s
"""


def test_curves_have_finished_epochs_and_the_last_attempt(tmp_path):
    fold = tmp_path / "results_filter" / "Dataset1_A" / "T_2epochs__nnUNetPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_1.txt").write_text(LOG)
    assert len(collect.curves_of(tmp_path)) == 1
    (fold / "training_log_2.txt").write_text(AGAIN)
    curves = collect.curves_of(tmp_path)
    assert curves[["results", "data", "run"]].drop_duplicates().values.tolist() == [
        ["results_filter", "Dataset1_A", "T_2epochs"]
    ]
    assert curves["train_loss"].tolist() == [-0.1, -0.4] and curves["seconds"].tolist() == [3.5, 4.0]
    assert curves["pseudo_dice"][0] == pytest.approx(0.6) and curves["pseudo_dice"].isna().tolist() == [False, True]
    (tmp_path / "logs").mkdir()
    collect.write(tmp_path, tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {collect.CURVES, "GPU_curves.png", "GPU_logs.txt"}


def test_first_steps_are_relative_to_nnunet_and_to_the_floor():
    columns = ["trainer", "configuration", "device", "first_step_s", "step_ms", "gflop", "peak_memory_MiB", "error"]
    rows = [
        ["nnUNetTrainer", "2d", "H", 30, 20, 300, 4000, None],
        ["nnUNetTrainerMeanTeacher", "2d", "H", 40, 50, 700, 8000, None],
        ["nnUNetTrainerCPS", "2d", "H", None, None, 900, None, "Error: no memory"],
        ["nnUNetTrainer", "2d", "A", 30, 40, 300, 4000, None],
        ["nnUNetTrainerMeanTeacher", "2d", "A", 40, 80, 700, 8000, None],
    ]
    table = collect.first_steps_table(pd.DataFrame(rows, columns=columns))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[3] == ["MeanTeacher", "2d", "A", "40", "80.0", "2.00", "2.33", "0.86", "8000", "2.00", ""]
    assert cells[5] == ["MeanTeacher", "2d", "H", "40", "50.0", "2.50", "2.33", "1.07", "8000", "2.00", ""]
    assert cells[6] == ["CPS", "2d", "H", "-", "-", "-", "3.00", "-", "-", "-", "Error: no memory"]


def test_rows_that_another_call_has_brought_stay(tmp_path, monkeypatch):
    first, second, repository = (tmp_path / name for name in ("first", "second", "repository"))
    for folder in (first, second, repository):
        folder.mkdir()
    monkeypatch.setattr(study_report, "FOLDER", repository)
    steps = {"configuration": "2d", "device": "H200"}
    old = [{"trainer": "A", **steps, "step_ms": 1}, {"trainer": "B", **steps, "step_ms": 2}]
    new = [{"trainer": "B", **steps, "step_ms": 3}, {"trainer": "B", **steps, "device": "A100", "step_ms": 4}]
    curve = {"results": "results", "data": "D", "run": "r"}
    for folder, rows, epochs in ((first, old, {0: 0.1, 1: 0.2}), (second, new, {1: 0.3, 2: 0.4})):
        pd.DataFrame(rows).to_csv(folder / collect.FIRST_STEPS, index=False)
        curves = [{**curve, "epoch": epoch, "pseudo_dice": dice} for epoch, dice in epochs.items()]
        pd.DataFrame(curves).to_csv(folder / collect.CURVES, index=False)
        collect.merge(folder)
    found = pd.read_csv(repository / collect.FIRST_STEPS)
    assert found[["trainer", "device", "step_ms"]].values.tolist() == [
        ["A", "H200", 1],
        ["B", "A100", 4],
        ["B", "H200", 3],
    ]
    found = pd.read_csv(repository / collect.CURVES)
    assert dict(zip(found["epoch"], found["pseudo_dice"])) == {0: 0.1, 1: 0.3, 2: 0.4}


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither \*_runs.csv"):
        collect.merge(tmp_path)
