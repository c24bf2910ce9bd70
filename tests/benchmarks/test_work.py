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


def first_steps_row(trainer: str, device: str = "H200", **values) -> dict:
    return {column: None for column in first_steps.COLUMNS} | {
        "trainer": trainer,
        "configuration": "2d",
        "device": device,
        **values,
    }


def test_a_new_folder_begins_with_the_records_of_the_repository(tmp_path, monkeypatch):
    committed, out = tmp_path / "studies", tmp_path / "out"
    committed.mkdir()
    rows = [first_steps_row("A", step_ms=1.0), first_steps_row("B", error="Error: no memory")]
    pd.DataFrame(rows).to_csv(committed / collect.FIRST_STEPS, index=False)
    runs = pd.DataFrame([dict.fromkeys(study_report.RUNS, 1)])
    runs.to_csv(committed / "GPU_ACDC_3_runs.csv", index=False)
    runs.to_csv(committed / "ACDC_2.5mm_runs.csv", index=False)
    (committed / collect.CURVES).write_text("results,data,run,epoch\n")
    monkeypatch.setattr(study_report, "FOLDER", committed)
    seen = []
    monkeypatch.setattr(work, "rows", lambda args: seen.append(study_report.read_records("GPU_ACDC_3")[1]) or 0)
    monkeypatch.setenv("nnUNet_compile", "f")
    words = ["--work", str(tmp_path / "work"), "--out", str(out), "--stages", "rows"]
    assert work.main(words) == 0
    records = tmp_path / "work" / "records"
    assert len(seen[0]) == 1 and sorted(f.name for f in records.iterdir()) == [
        "GPU_ACDC_3_runs.csv",
        collect.FIRST_STEPS,
    ]
    # what failed is tried again on a new machine, and what was done here is not replaced
    assert pd.read_csv(records / collect.FIRST_STEPS)["trainer"].tolist() == ["A"]
    pd.DataFrame(rows[1:]).to_csv(records / collect.FIRST_STEPS, index=False)
    monkeypatch.setattr(study_report, "FOLDER", committed)
    assert work.main(words) == 0
    assert pd.read_csv(records / collect.FIRST_STEPS)["trainer"].tolist() == ["B"]


def test_what_is_measured_on_this_device_is_not_measured_again(tmp_path):
    table = tmp_path / "steps.csv"
    assert work.measured_here(table, 2, "H200", retry=False) == set()
    rows = [first_steps_row("A"), first_steps_row("B", error="Error"), first_steps_row("C", device="A100")]
    pd.DataFrame([*rows, first_steps_row("D", configuration="3d_fullres")]).to_csv(table, index=False)
    assert work.measured_here(table, 2, "H200", retry=False) == {"A", "B"}
    assert work.measured_here(table, 2, "H200", retry=True) == {"A"}
    assert work.measured_here(table, 3, "H200", retry=False) == {"D"}
    assert work.name_of_device("cpu") == "cpu"


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
