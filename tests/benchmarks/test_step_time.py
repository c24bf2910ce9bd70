"""Time and memory of steps: what is measured, and that the page says what is recorded."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import step_time
from nnunet_ssl.discovery.variants import trainer_classes


def test_every_trainer_is_recorded_in_2d_and_in_3d_and_the_page_is_written_from_it():
    table = pd.read_csv(step_time.TABLE)
    assert list(table.columns) == step_time.COLUMNS and not table[step_time.MEASURED].isna().any().any()
    for configuration in ("2d", "3d_fullres"):
        rows = table[(table["configuration"] == configuration) & (table["device"] == "cpu")]
        assert sorted(rows["trainer"]) == sorted(trainer_classes())
        # rows that are compared must be of one kind of step
        assert len(rows[["patch", "batch", "features", "threads"]].drop_duplicates()) == 1
    assert step_time.page_text() == step_time.PAGE.read_text(encoding="utf-8"), (
        "python -m benchmarks.step_time --report"
    )


def test_the_page_explains_every_step_that_is_far_over_its_floor():
    rows = step_time.with_ratios(pd.read_csv(step_time.TABLE))
    far = set(rows[rows["over"].round(2) > step_time.LARGEST]["trainer"].str.removeprefix("nnUNetTrainer"))
    reasons = step_time.PAGE.read_text(encoding="utf-8").split("## Over the floor")[1]
    missing = sorted(name for name in far if f"* **{name}**" not in reasons)
    assert not missing, f"docs/performance.md does not say why these take more than 1.10 of their floor: {missing}"


def test_time_arithmetic_and_memory_are_relative_to_nnunets(tmp_path):
    file = tmp_path / "steps.csv"
    words = ["-tr", "nnUNetTrainerMeanTeacher", "--dimension", "2", "--patch", "32", "32", "--batch", "2"]
    for steps in ("1", "2"):
        assert step_time.main([*words, "--features", "4", "8", "8", "--steps", steps, "--table", str(file)]) == 0
    table = pd.read_csv(file)
    assert list(table["steps"]) == [2]  # the second row took the place of the first one
    (row,) = step_time.with_ratios(table).itertuples()
    assert row.floor == pytest.approx(7 / 3, rel=0.02)  # the first layer has no gradient of its input
    assert row.time > 1 and 1.5 < row.memory < 2.5
    assert row.over == pytest.approx(row.step_ms / row.nnunet_step_ms / (row.gflop / row.nnunet_gflop))


def test_steps_far_over_the_floor_stand_out():
    numbers = {
        "step_ms": 120.0,
        "nnunet_step_ms": 100.0,
        "nnunet_gflop": 2.0,
        "memory_MiB": 3.0,
        "nnunet_memory_MiB": 2.0,
    }
    rows = [
        {"trainer": f"nnUNetTrainer{name}", "configuration": configuration, "gflop": gflop, **numbers}
        for name, configuration, gflop in (("B", "2d", 2.0), ("A", "2d", 2.2), ("C", "3d_fullres", 2.0))
    ]
    lines = step_time.performance_table(pd.DataFrame(rows), "2d").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [["A", "1.20", "1.10", "1.09", "1.50"], ["B", "1.20", "1.00", "**1.20**", "1.50"]]
