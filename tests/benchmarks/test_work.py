"""The queue of a GPU machine: its order, and a rehearsal on CPU that is stopped and continued."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import study, study_report
from benchmarks.gpu import collect, first_steps, work
from benchmarks.studies import STUDIES
from tests.helpers.paths import REPOSITORY

TRAINERS = ("nnUNetTrainer", "nnUNetTrainerMeanTeacher")


def test_the_order_has_every_row_of_the_gpu_studies_published_ones_first():
    ordered = [job for name, keys in work.ORDER for job in study.jobs_of([STUDIES[name]], keys, None)]
    gpu = [s for s in STUDIES.values() if s.name.startswith("GPU_")]
    assert set(ordered) == set(study.jobs_of(gpu, None, None))
    first = list(dict.fromkeys(ordered))[:6]
    assert [job.row.pack.name for job in first] == ["ACDC3gpu"] * 3 + ["ACDC7gpu"] * 3
    assert [job.row.key for job in first[:3]] == ["nnU-Net", "nnFilterMatch without filter", "nnFilterMatch"]


@pytest.mark.parametrize(("name", "start", "rate"), [("GPU_ACDC_3", 5, "initial_lr=5e-3"), ("GPU_ACDC_7", 20, None)])
def test_published_rows_begin_after_as_many_epochs_as_published(name, start, rate):
    row = STUDIES[name].row("nnFilterMatch")
    values = dict(setting.split("=") for setting in row.settings)
    assert float(values["start"]) * row.epochs == pytest.approx(start) and values["joint"] == "true"
    assert (rate in row.settings) == (rate is not None)
    without = STUDIES[name].row("nnFilterMatch without filter")
    assert set(without.settings) - set(row.settings) == {"filter_rounds=0"}


def rehearsal(folder: Path) -> subprocess.Popen:
    """A call of its own, which may take an hour."""
    words = ["-m", "benchmarks.gpu.start", "--work", folder / "work", "--out", folder / "out", "--rehearse"]
    words += ["--seconds", "3600", "--grace", "300", "--", "--cores", "1", "--trainers", *TRAINERS]
    log = (folder / "log.txt").open("a")
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=REPOSITORY, stdout=log, stderr=log)


@pytest.mark.slow
def test_a_rehearsal_is_stopped_and_continued_to_the_end(tmp_path, monkeypatch):
    process = rehearsal(tmp_path)
    results = tmp_path / "work" / "results"
    checkpoint = "Dataset390_Rehearsal/nnUNetTrainer_4epochs*/fold_0/checkpoint_latest.pth"
    while not list(results.glob(checkpoint)) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 128 + signal.SIGTERM
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in left
    out = tmp_path / "out"
    steps = pd.read_csv(out / collect.FIRST_STEPS).set_index("trainer")
    assert steps["error"].isna().all() and set(steps.index) == set(TRAINERS)
    assert steps.loc[TRAINERS[1], "gflop"] / steps.loc[TRAINERS[0], "gflop"] == pytest.approx(7 / 3, rel=0.02)
    curves = pd.read_csv(out / collect.CURVES)
    assert curves["epoch"].tolist() == list(range(len(curves))) and len(curves) < 4
    assert curves["pseudo_dice"].notna().all() and curves["seconds"].gt(0).all()
    assert not list(out.glob("REHEARSAL*"))

    assert rehearsal(tmp_path).wait(3600) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"\$ python .*measured_training.* -tr nnUNetTrainer_4epochs\S+ .*--c$", log, re.MULTILINE)
    assert len(re.findall("first_steps|MeanTeacher, 2D", log)) == 1  # not measured again
    curves = pd.read_csv(out / collect.CURVES)
    assert sorted(curves["epoch"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    cells, runs = (pd.read_csv(out / f"REHEARSAL{part}.csv") for part in ("", "_runs"))
    assert list(runs.columns) == study_report.RUNS and runs["steps"].tolist() == [12, 12]
    assert set(cells["row"]) == {"nnU-Net", "nnFilterMatch"} and set(cells["class"]) == {"RV", "MLV", "LVC"}
    assert not [file for file in out.rglob("*") if file.suffix not in (".csv", ".png", ".txt")]

    monkeypatch.setattr(study_report, "FOLDER", tmp_path / "repository")
    collect.merge(out)
    collect.merge(out)
    assert len(study_report.read_records("REHEARSAL")[1]) == 2
    assert "| MeanTeacher " in collect.first_steps_table(steps.reset_index())


def test_a_trainer_that_fails_is_a_row_with_its_error(tmp_path, monkeypatch):
    table = tmp_path / "steps.csv"
    for name in ("nnUNetTrainerUnknown", "nnUNetTrainerUnknown", "other"):
        words = [
            "first_steps",
            name,
            "--device",
            "cpu",
            "--table",
            str(table),
            "--patch",
            "8",
            "8",
            "--features",
            "4",
            "4",
        ]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(first_steps, "measure", lambda args, row: (row.update(gflop=1.0), 1 / 0))
        assert first_steps.main() == 1
    rows = pd.read_csv(table)
    assert rows["trainer"].tolist() == ["nnUNetTrainerUnknown", "other"]
    assert rows["error"].str.startswith("ZeroDivisionError").all() and rows["gflop"].tolist() == [1, 1]
