"""Studies: commands that are accepted, runs that continue, records that are complete, pages that say what the records say."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import peer, studies, study, study_jobs, study_packs, study_report
from benchmarks.studies import STUDIES, Row, Study
from benchmarks.study_passes import relative_passes
from benchmarks.study_report import CELLS, RUNS, Results
from nnunet_ssl.commands import convert, load
from nnunet_ssl.commands import steps as commands
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import statistics
from tests.helpers.paths import REPOSITORY
from tests.helpers.study import guess, truth, write

CASES = {f"patient{p}_frame{f}": f"patient{p}" for p in (1, 2) for f in (1, 2)}


def option(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


# ------------------------------------------------------------------------------------------------ pages of the repository


def test_pages_and_quotations_say_what_the_recorded_rows_say():
    expected = study_report.texts()
    for file, text in expected.items():
        assert file.read_text(encoding="utf-8") == text, f"{file}: python -m benchmarks.study report"
    pages = {name for name in STUDIES if study_report.FOLDER / f"{name}.md" in expected}
    written_by_hand = {"README", "semi_supervised", "methods"}
    assert {file.stem for file in study_report.FOLDER.glob("*.md")} == pages | written_by_hand
    assert {file.stem for file in study_report.FOLDER.glob("*.png")} == pages


def test_every_recorded_run_is_of_a_row_and_complete():
    rows = {(row.pack.records, row.pack.name, row.key): row for s in STUDIES.values() for row in s.rows}
    for records in {row.pack.records for row in rows.values()}:
        cells, runs = study_report.read_records(records)
        recorded = set(cells[["data", "row", "seed"]].itertuples(index=False, name=None))
        assert sorted(recorded) == sorted(runs[["data", "row", "seed"]].itertuples(index=False, name=None))
        for data, key, _ in recorded:
            assert (records, data, key) in rows
        assert (
            cells["Dice"].between(0, 100).all() and not cells.duplicated(["data", "row", "seed", "case", "class"]).any()
        )


# ------------------------------------------------------------------------------------------------------------ the table


def test_every_row_has_a_trainer_and_rows_that_need_others_find_them(trainers_of_benchmarks):
    names = {}
    for a_study in STUDIES.values():
        keys = [row.key for row in a_study.rows]
        assert len(set(keys)) == len(keys) and {a_study.baseline, a_study.upper, "nnU-Net, 7/3 steps"} < set(keys)
        for row in a_study.rows:
            if row.trainer:
                find_trainer(row.run_name(0))
                place = (row.pack.dataset, row.variant, row.run_name(0))
                assert names.setdefault(place, (row.pack, row.key)) == (row.pack, row.key), "two rows share a folder"
            assert set(row.after) < set(keys) and row.pretrained in (*row.after, "")
    packs = {row.pack for a_study in STUDIES.values() for row in a_study.rows}
    assert len({pack.dataset_id for pack in packs}) == len({pack.name for pack in packs}) == len(packs)


def test_rows_without_a_trainer_are_those_that_the_peer_can_make():
    packs = {row.pack for a_study in STUDIES.values() for row in a_study.rows if not row.trainer}
    assert {str(pack.dataset_id) for pack in packs} == set(peer.DATASETS.values())
    assert {pack.configuration for pack in packs} == {"2d_small"}  # which it reads


def test_the_7_to_3_control_has_the_steps_of_the_time_of_mean_teacher():
    steps = {s.name: (s.row("nnU-Net").steps, s.row("nnU-Net, 7/3 steps").steps) for s in STUDIES.values()}
    assert steps["ACDC_3"] == (4000, 9250) and steps["LA_8"] == (3000, 7000)


@pytest.mark.parametrize("name", STUDIES)
def test_the_commands_accept_the_arguments_of_a_study(name, tmp_path):
    args = study.make_parser().parse_args(["prepare", name, "--out", str(tmp_path), "--data", str(tmp_path / "data")])
    (tmp_path / "data/la").mkdir(parents=True)
    (tmp_path / "data/la/test.list").write_text("a\n")
    for pack in {row.pack for row in STUDIES[name].rows}:
        steps = study_packs.preparing_steps(tmp_path, pack, args)
        commands = [step for step in steps if step.action[0] == "nnunet_ssl"]
        for step in commands:
            module, words = load(step.action[1]), list(step.action[2:])
            if step.action[1] == "convert":
                module, words = importlib.import_module(convert.DATASETS[words[0]][0]), words[1:]
            parser = argparse.ArgumentParser()
            module.add_arguments(parser)
            parsed = parser.parse_args(words)
            assert all(Path(word).is_file() for word in words if word.endswith("val.list"))
        spacing = pack.spacing and [str(s) for s in pack.spacing]
        assert parsed.d == [str(pack.dataset_id)] and parsed.overwrite_target_spacing == spacing
        modules = [step.action[2] for step in steps if step not in commands]
        others = ["benchmarks.labeled_again"] * pack.again + ["benchmarks.foreign_images"] * bool(pack.foreign)
        assert modules == others + ["nnunet_ssl.plans.small"] * bool(pack.patch)
        made = [step.action[step.action.index("-o" if "-o" in step.action else "-d") + 1] for step in commands[:-1]]
        assert made[-1] == str(pack.dataset_id)  # a pack made from another one is made after it
        assert len(made) == {True: 3, False: 2}[pack == studies.ACDC_EXPANDED] if pack.source else 1


@pytest.mark.parametrize("pack", [studies.ACDC_AGAIN, studies.ACDC_FOREIGN])
def test_a_pack_whose_conversion_was_the_last_thing_done_gets_its_unlabeled_images(tmp_path, pack):
    for made in filter(None, (pack, pack.foreign)):
        (tmp_path / "raw" / made.dataset).mkdir(parents=True)
        (tmp_path / "raw" / made.dataset / "dataset.json").write_text("{}")
    args = study.make_parser().parse_args(["prepare", "ACDC_3", "--out", str(tmp_path)])
    first = study_packs.preparing_steps(tmp_path, pack, args)[0].action
    assert first[:2] == ["python", "-m"] and first[2].startswith("benchmarks.")


# ------------------------------------------------------------------------------------------------------------ the work


class Commands:
    """Stands in for `run_command`: keeps the words and writes what the next commands and the records need."""

    def __init__(self):
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()
        self.running = self.most = 0

    def __call__(self, words, log, environment, report=None) -> None:
        words = list(map(str, words))
        self.calls.append(words)
        raw, pp = (Path(environment[name]) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
        if "convert" in words:
            self.write(raw / f"Dataset0{option(words, '-d')}_{option(words, '-name')}" / "dataset.json", {})
        elif "plan_and_preprocess" in words:
            (dataset,) = raw.glob(f"Dataset0{option(words, '-d')}_*")
            base = pp / dataset.name
            planned = {"spacing": [2.5, 2.5], "patch_size": [160, 128], "batch_size": 9}
            self.write(
                base / "nnUNetPlans.json", {"configurations": {"2d": planned}, "image_reader_writer": "SimpleITKIO"}
            )
            self.write(base / "splits_final.json", [{"train": ["x"], "val": list(CASES)}])
            self.write(base / "dataset.json", {"labels": {"background": 0, "organ": 1, "lesion": 2}})
            UnlabeledList(groups=CASES).save(base / "unlabeled.json")
            for index, case in enumerate(CASES):
                write(truth(index), base / "gt_segmentations" / f"{case}.nii.gz")
        elif "nnunet_ssl.plans.small" in words:
            (file,) = pp.glob(f"Dataset0{option(words, '-d')}_*/nnUNetPlans.json")
            plans = json.loads(file.read_text())
            small = {"patch_size": [96, 96], "batch_size": int(option(words, "--batch_size"))}
            self.write(file, {**plans, "configurations": {**plans["configurations"], "2d_small": small}})
        elif "--measured" in words:
            self.train(words, report)

    @staticmethod
    def write(file: Path, content) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))

    def train(self, words: list[str], report) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        report(0)
        time.sleep(0.05)
        self.running -= 1
        name, measured = option(words, "-tr"), Path(option(words, "--measured"))
        if name in self.failing:
            raise UserError("exit code 1")
        error = 1 if "EMA" in name else 2
        for index, case in enumerate(CASES):
            write(guess(index, error), measured.parent / "validation" / f"{case}.nii.gz")
        cost = 0.5 if "EMA" in name else 0.25
        self.write(
            measured, {"seconds": [1.0] * 500, "cpu_seconds": [cost] * 500, "peak_memory_bytes": 2**30, "memory": "RSS"}
        )
        self.write(measured.parent / "validated.json", {"mirroring": True})
        (measured.parent / "training_log_1.txt").write_text(
            "t: Epoch 0 \nt: Epoch time: 3.0 s\nt: Epoch 1 \nt: Epoch 1 \nt: Epoch time: 4.0 s\n"
        )
        (measured.parent / "checkpoint_final.pth").touch()

    @property
    def trainings(self) -> list[list[str]]:
        """Trainer and switches of the trainings so far."""
        return [[option(w, "-tr"), *w[w.index("-device") + 2 :]] for w in self.calls if "--measured" in w]


def short(seed: int, trainer: str = "nnUNetTrainer") -> str:
    return f"{trainer}_2epochs_250iters_seed{seed}"


@pytest.fixture
def records(monkeypatch, tmp_path) -> Path:
    """The folder of the records, and a README.md that quotes them."""
    folder = tmp_path / "repository" / "docs" / "studies"
    folder.mkdir(parents=True)
    (tmp_path / "repository" / "README.md").write_text(
        "before\n<!-- study:S rows: nnU-Net; EMA -->\n<!-- /study -->\nafter\n"
    )
    monkeypatch.setattr(study_report, "FOLDER", folder)
    monkeypatch.setattr(study_report, "REPOSITORY", tmp_path / "repository")
    monkeypatch.setattr(statistics, "RESAMPLES", 199)
    return folder


@pytest.fixture
def faked(monkeypatch, records) -> Commands:
    """One small study S, commands that only pretend."""
    pack, full = studies.ACDC_3, studies.ACDC_ALL
    rows = (
        Row("nnU-Net", pack, "nnUNetTrainer", 2, "head-room"),
        Row("EMA", pack, "nnUNetTrainerEMA", 2),
        Row("peer", pack, ""),
        replace(studies.pseudo_labels("round 1", pack, 2, "nnU-Net"), pretrained="nnU-Net"),
        Row("all labels", full, "nnUNetTrainer", 2, "head-room"),
    )
    monkeypatch.setattr(study, "STUDIES", {"S": Study("S", "Title", "About.", rows, seeds=(0, 1))})
    monkeypatch.setattr(study_report, "STUDIES", study.STUDIES)
    fake = Commands()
    monkeypatch.setattr(commands, "run_command", fake)
    monkeypatch.setattr(study, "run_command", fake)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, "")  # restored afterwards
    return fake


def run(tmp_path, *words: object) -> int:
    return study.main(["run", "S", "--out", str(tmp_path / "out"), *map(str, words)])


def test_run_prepares_trains_and_records_everything(faked, tmp_path, records):
    assert run(tmp_path, "--jobs", 2) == 0
    assert [w[1] if w[0] == "nnunet_ssl" else w[2] for w in faked.calls[:6]] == [
        *("convert", "plan_and_preprocess", "nnunet_ssl.plans.small"),
        *("convert", "plan_and_preprocess", "nnunet_ssl.plans.small"),
    ]
    assert len(faked.trainings) == 8 and faked.most == 2
    order = [name[-1] for name, *_ in faked.trainings]
    assert order == sorted(order)  # seed by seed
    assert {name for name, *_ in faked.trainings[:2]} == {short(0)}  # the head-room first

    cells, runs = study_report.read_records("ACDC_2.5mm")
    assert list(cells.columns) == CELLS and list(runs.columns) == RUNS
    assert len(cells) == 8 * len(CASES) * 2 and set(cells["patient"]) == {"patient1", "patient2"}
    ema = runs[(runs["row"] == "EMA") & (runs["seed"] == 0)].iloc[0]
    assert ema[
        ["data", "steps", "step_seconds", "step_cpu_seconds", "epoch_seconds", "peak_memory_MiB", "device", "precision"]
    ].tolist() == [*("ACDC3", 500, 500, 250, 7, 1024, "cpu", "float32")]
    page = (records / "S.md").read_text()
    assert "from " in page and "| EMA " in page and "Not recorded: peer." in page
    main, of_classes = page.split("**Classes.**")
    assert [line.split("|")[4].strip() for line in main.splitlines() if line.startswith("| round 1")] == ["3.00"]
    assert all(f"| {key} " in of_classes for key in ("all labels", "EMA", "round 1")) and "| peer " not in of_classes
    assert (records / "S.png").stat().st_size > 5000
    quoted = (records.parents[1] / "README.md").read_text()
    assert quoted.startswith("before\n<!-- study:S rows: nnU-Net; EMA -->\n\n**Head-room**") and quoted.endswith(
        "after\n"
    )
    assert "| EMA " in quoted and "round 1" not in quoted

    faked.calls.clear()
    assert run(tmp_path) == 0
    assert not faked.calls  # everything is recorded


def test_it_continues_where_it_stopped(faked, tmp_path, capsys):
    faked.failing = {short(0, "nnUNetTrainerEMA")}
    assert run(tmp_path, "--seeds", 0, "--rows", "head-room", "EMA") == 1  # the others are trained all the same
    assert "ACDC3, EMA, seed 0: exit code 1" in capsys.readouterr().err
    assert len(faked.trainings) == 3
    folder = study_jobs.Job(study.STUDIES["S"].row("EMA"), 0).folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_latest.pth").touch()
    faked.failing.clear()
    faked.calls.clear()
    assert run(tmp_path, "--seeds", 0, "--rows", "head-room", "EMA") == 0
    assert faked.trainings == [[short(0, "nnUNetTrainerEMA"), "--c"]]

    job = study_jobs.Job(study.STUDIES["S"].row("EMA"), 0)
    assert study_jobs.next_switches(job) is None
    (folder / "validated.json").unlink()
    assert study_jobs.next_switches(job) == ["--val"]


def test_a_row_that_needs_another_is_trained_after_it_with_its_labels_and_weights(faked, tmp_path, capsys):
    assert run(tmp_path, "--seeds", 1, "--rows", "round 1", "--jobs", 2) == 0  # nnU-Net too, which it needs
    nnunet = study_jobs.Job(study.STUDIES["S"].row("nnU-Net"), 1)
    label = next(w for w in faked.calls if "pseudo_label" in w)
    assert option(label, "-tr") == short(1) and option(label, "-o") == "round_1_seed1"
    parser = argparse.ArgumentParser()
    load("pseudo_label").add_arguments(parser)
    parser.parse_args(label[2:])
    assert [name for name, *_ in faked.trainings] == [short(1), short(1, "nnUNetTrainerPseudoLabels")]
    words = faked.calls[-1]
    assert faked.calls.index(label) == len(faked.calls) - 2
    assert option(words, "-pretrained_weights") == str(nnunet.folder / "checkpoint_final.pth")
    assert option(words, "--set") == 'round_name="round_1_seed1"' and option(words, "--threads") == "1"

    runs = study_report.read_records("ACDC_2.5mm")[1]
    elsewhere = runs.assign(date="2001-01-01", step_seconds=7.0)
    elsewhere[elsewhere["row"] == "nnU-Net"].to_csv(study_report.records_file("ACDC_2.5mm", "_runs"), index=False)
    faked.calls.clear()
    capsys.readouterr()
    assert study.main(["run", "S", "--out", str(tmp_path / "new"), "--seeds", "1", "--rows", "round 1"]) == 0
    assert len(faked.trainings) == 2
    assert "ACDC3, nnU-Net, seed 1: the record of 2001-01-01 (500 steps, float32) stays" in capsys.readouterr().out
    runs = study_report.read_records("ACDC_2.5mm")[1].set_index("row")
    assert runs["step_seconds"].to_dict() == {"nnU-Net": 7, "round 1": 500}

    faked.failing = {short(0)}
    faked.calls.clear()
    assert run(tmp_path, "--seeds", 0, "--rows", "round 1") == 1
    assert [name for name, *_ in faked.trainings] == [short(0)]


def test_a_run_that_another_process_trains_is_left_to_it(faked, tmp_path, capsys):
    lock = tmp_path / "out" / "locks" / f"Dataset023_ACDC3_{short(0)}"
    with study_jobs.locked(lock):
        assert run(tmp_path, "--seeds", 0, "--rows", "nnU-Net") == 0
    assert not faked.trainings and "is trained by another process" in capsys.readouterr().out


def test_predictions_and_finished_runs_are_recorded_by_command(faked, tmp_path, capsys):
    def record(*words: object) -> int:
        return study.main(["record", "S", "--out", str(tmp_path / "out"), *map(str, words)])

    assert study.main(["prepare", "S", "--out", str(tmp_path / "out"), "--seeds", "0"]) == 0
    peer = tmp_path / "peer"
    for index, case in enumerate(list(CASES)[1:], 1):
        write(truth(index), peer / f"{case}.nii.gz")
    arguments = ("--row", "peer", "--seed", 0, "--predictions", peer)
    assert record(*arguments) == 1 and "--steps" in capsys.readouterr().err
    assert record(*arguments, "--steps", 30) == 1
    assert "predictions of 1 of 4 cases are missing: patient1_frame1" in capsys.readouterr().err
    assert record("--predictions", peer, "--steps", 30) == 1 and "--row and --seed" in capsys.readouterr().err
    write(truth(0), peer / "patient1_frame1.nii.gz")
    assert record(*arguments, "--steps", 30) == 0
    cells, runs = study_report.read_records("ACDC_2.5mm")
    assert (cells["row"] == "peer").all() and (cells["Dice"] == 100).all() and (cells["95HD"] == 0).all()
    assert runs["steps"].tolist() == [30] and runs["step_seconds"].isna().all()

    faked.train(
        ["--measured", str(study_jobs.Job(study.STUDIES["S"].row("EMA"), 1).folder / "m.json"), "-tr", "EMA"], print
    )
    measured = tmp_path / "elsewhere.json"
    measured.write_text(json.dumps({"seconds": [2.0] * 500, "cpu_seconds": [1.0] * 499}))
    assert record("--row", "EMA", "--seed", 1, "--measured", measured) == 0
    runs = study_report.read_records("ACDC_2.5mm")[1].set_index("row")
    assert runs.loc["EMA", "step_seconds"] == 1000
    assert np.isnan(runs.loc["EMA", "step_cpu_seconds"])  # of a part of the steps only
    assert len(runs) == 2
    assert record() == 0 and "1 of 10 runs are finished" in capsys.readouterr().out

    measured.write_text(json.dumps({"seconds": [3.0] * 500}))
    for words in (("--row", "EMA", "--seed", 1, "--measured", measured), (*arguments, "--steps", 40)):
        assert record(*words) == 0 and "stays. Replace it with --again" in capsys.readouterr().out
    assert study_report.read_records("ACDC_2.5mm")[1]["steps"].tolist() == [500, 30]
    assert record("--row", "EMA", "--seed", 1, "--measured", measured, "--again") == 0
    assert record(*arguments, "--steps", 40, "--again") == 0
    runs = study_report.read_records("ACDC_2.5mm")[1].set_index("row")
    assert runs.loc["EMA", "step_seconds"] == 1500 and runs.loc["peer", "steps"] == 40


def test_what_cannot_be_done_is_said_before_anything_is_trained(faked, tmp_path, capsys, monkeypatch):
    def error(*words) -> str:
        assert run(tmp_path, *words) == 1
        return capsys.readouterr().err

    assert "allowed are nnU-Net, head-room, EMA" in error("--rows", "Mean Teacher")
    assert study.main(["report", "T"]) == 1 and "allowed are S" in capsys.readouterr().err
    assert run(tmp_path, "--rows", "nnU-Net", "--seeds", 0) == 0
    faked.calls.clear()
    plans = tmp_path / "out" / "pp" / "Dataset023_ACDC3" / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace('"batch_size": 8', '"batch_size": 4'))
    assert "batch_size 4, the study needs 8" in error("--rows", "EMA")
    rows = study.STUDIES["S"].rows
    longer = Study("S", "Title", "About.", (replace(rows[0], epochs=3), *rows[1:]))
    monkeypatch.setattr(study, "STUDIES", {"S": longer})
    assert "has 500 steps, the row of benchmarks/studies.py 750" in error("--rows", "nnU-Net")
    assert study.main(["run", "S", "--out", str(tmp_path / "new"), "--rows", "round 1", "--seeds", "0"]) == 1
    assert "ACDC3, nnU-Net, seed 0 has 500 steps" in capsys.readouterr().err  # which the row needs
    wrong = replace(rows[0], trainer="nnUNetTrainerMeen", key="Meen")
    monkeypatch.setattr(study, "STUDIES", {"S": Study("S", "Title", "About.", (wrong,))})
    assert "row Meen" in error()
    assert not faked.calls


@pytest.mark.slow
def test_a_signal_ends_the_trainings(tmp_path):
    """`run` as a process, with a training that would last forever."""
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\nfrom benchmarks import study\n"
        "study.prepare = lambda *args: None\n"
        "study.commands_of = lambda job, *args: [(['python', '-c', 'import time; time.sleep(600)'], '')]\n"
        "study.end_on_sigterm()\n"
        f"sys.exit(study.main(['run', 'ACDC_7', '--rows', 'CML', '--seeds', '99', '--out', {str(tmp_path)!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("$ python"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


# ---------------------------------------------------------------------------------------------------------- the results


PACK = studies.ACDC_3
ROWS = (Row("nnU-Net", PACK, "nnUNetTrainer", 2), Row("new", PACK, "nnUNetTrainerEMA", 2, after=("nnU-Net",)))
ROWS = (*ROWS, Row("all labels", studies.ACDC_ALL, "nnUNetTrainer", 2, "head-room"))
ROWS = (*ROWS, Row("new, all labels", studies.ACDC_AGAIN, "nnUNetTrainerEMA", 2, baseline="all labels"))
ROWS = (*ROWS, Row("other", PACK, "nnUNetTrainerMeanTeacher", 2))
STUDY = Study("S", "Title", "About.", ROWS, own="new")


def keep(records: Path, dice: dict[tuple[str, int], list[list[float]]]) -> Results:
    """Record runs: (row, seed) -> Dice `(cases, classes)` of the four cases of two patients."""
    cells, runs = [], []
    for (key, seed), values in dice.items():
        run = [STUDY.row(key).pack.name, key, seed]
        for (case, patient), of_case in zip(CASES.items(), values, strict=True):
            cells += [[*run, patient, case, name, value, 2.0] for name, value in zip(("RV", "LV"), of_case)]
        runs.append(dict(zip(RUNS, run)) | {"steps": 500, "device": "cpu", "precision": "float32"})
    pd.DataFrame(cells, columns=CELLS).to_csv(records / "ACDC_2.5mm.csv", index=False)
    pd.DataFrame(runs, columns=RUNS).to_csv(records / "ACDC_2.5mm_runs.csv", index=False)
    return Results(STUDY)


FLAT = [[50, 70]] * 4


def plus(values: list[list[float]], *added: float) -> list[list[float]]:
    return [[v + a for v in row] for row, a in zip(values, added * (4 // len(added)), strict=True)]


def test_a_gain_that_all_share_has_no_interval_and_its_share_is_exact(records):
    dice = {("nnU-Net", 0): FLAT, ("nnU-Net", 1): plus(FLAT, 3), ("nnU-Net", 2): FLAT}
    dice |= {
        ("new", 1): plus(FLAT, 8),
        ("new", 2): plus(FLAT, 5),
        ("all labels", 1): plus(FLAT, 23),
        ("all labels", 2): plus(FLAT, 20),
    }
    results = keep(records, dice)
    assert results.difference("new").text() == "+5.0 [+5.0, +5.0]"
    assert results.head_room.text(sign="") == "20.0 [20.0, 20.0]"
    assert results.share("new").text(0) == "+25 [+25, +25]"
    assert results.patients_better("new") == "2 / 0" and results.patients_better("nnU-Net") == "-"
    assert results.mean("nnU-Net", "Dice").tolist() == [51, 71]
    page = study_report.page(results)
    assert "20.0 [20.0, 20.0] Dice, from 61.5 (nnU-Net) to 81.5 (all labels), seeds 1, 2" in page


def test_only_equal_seeds_are_compared(records):
    dice = {
        ("nnU-Net", 0): FLAT,
        ("nnU-Net", 1): plus(FLAT, 10),
        ("new", 1): plus(FLAT, 11),
        ("all labels", 0): plus(FLAT, 30),
    }
    results = keep(records, dice)
    assert results.difference("new").value == pytest.approx(1)
    assert results.share("new").text() == "-"  # no seed has all three
    assert results.difference_text("new") == "+1.0 [+1.0, +1.0]"
    results = keep(records, dice | {("new", 2): plus(FLAT, 40)})  # Dice beside it is of seeds 1 and 2
    assert results.difference_text("new") == "+1.0 [+1.0, +1.0] (seed 1)"
    assert "+1.0 [+1.0, +1.0] (seed 1)" in study_report.short_table(results)


def test_intervals_are_over_patients_and_seeds(records):
    head_room = {("nnU-Net", 0): FLAT, ("all labels", 0): plus(FLAT, 20)}
    frames = keep(records, head_room | {("new", 0): plus(FLAT, 10, -10)}).difference("new")
    assert (frames.value, frames.low, frames.high) == (0, 0, 0)  # both frames of a patient stay together
    patients = keep(records, head_room | {("new", 0): plus(FLAT, 10, 10, 0, 0)}).difference("new")
    assert (patients.value, patients.low, patients.high) == pytest.approx((5, 0, 10))
    seeds = {("nnU-Net", seed): FLAT for seed in (0, 1)} | {("new", 0): FLAT, ("new", 1): plus(FLAT, 6)}
    found = keep(records, seeds).difference("new")
    assert (found.value, found.low, found.high) == pytest.approx((3, 0, 6))


def test_a_resample_without_a_class_is_no_mean_of_the_others(records):
    nan = float("nan")  # the frames of the second patient show no RV
    dice = {("nnU-Net", 0): [[50, 70]] * 2 + [[nan, 70]] * 2, ("new", 0): [[60, 70]] * 2 + [[nan, 70]] * 2}
    found = keep(records, dice).difference("new")
    assert (found.value, found.low, found.high) == (5, 5, 5)


def test_a_row_is_compared_with_the_row_that_the_table_names(records):
    dice = {("nnU-Net", 0): FLAT, ("new", 0): plus(FLAT, 5), ("all labels", 0): plus(FLAT, 20)}
    dice |= {("new, all labels", 0): plus(FLAT, 18, 19), ("new, all labels", 1): FLAT}
    results = keep(records, dice)
    assert results.difference_text("new, all labels") == "-1.5 [-1.5, -1.5] to all labels (seed 0)"
    assert results.patients_better("new, all labels") == "0 / 2" and results.median_text("new, all labels") == "-1.5"
    assert results.share_text("new, all labels") == "-" and results.own_minus_text("new, all labels") == "-"
    assert "to nnU-Net (to all labels where it says so)" in study_report.page(results)
    assert "-1.5 [-1.5, -1.5] to all labels" in study_report.short_table(results)
    assert results.difference_text("new") == "+5.0 [+5.0, +5.0]"
    for name in ("ACDC_3", "ACDC_5", "ACDC_7", "LA_4", "LA_8"):
        named = {row.key: row.baseline for row in STUDIES[name].rows if row.baseline}
        of_all = [row.key for row in STUDIES[name].rows if row.key.startswith("SemiSupervised, all labels")]
        assert len(of_all) > 2 and named == dict.fromkeys(of_all, "all labels")


def test_classes_are_compared_one_by_one_where_there_are_several_seeds(records):
    dice = {("nnU-Net", seed): FLAT for seed in (0, 1)} | {("all labels", seed): plus(FLAT, 20) for seed in (0, 1)}
    dice |= {("new", seed): [[56, 67], [56, 69]] * 2 for seed in (0, 1)} | {("other", 0): FLAT}
    dice |= {("new, all labels", 0): plus(FLAT, 20), ("new, all labels", 1): [[70, 88]] * 4}
    table = study_report.class_table(keep(records, dice))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert cells[0] == ["row", "compared with", "seeds", "RV", "LV"]
    flat, twenty = ["+6.0 [+6.0, +6.0]", "-2.0 [-2.0, -2.0]"], ["+20.0 [+20.0, +20.0]"] * 2
    assert ["new", "nnU-Net", "0, 1", *flat] in cells and ["all labels", "nnU-Net", "0, 1", *twenty] in cells
    assert ["new, all labels", "all labels", "0, 1", "+0.0 [+0.0, +0.0]", "-1.0 [-2.0, +0.0]"] in cells
    assert not [line for line in cells if line[0] in ("nnU-Net", "other")]  # itself, one seed
    one = keep(records, {("nnU-Net", 0): FLAT, ("new", 0): plus(FLAT, 5)})
    assert study_report.class_table(one) == "" and "\n\n\n" not in study_report.page(one)


def test_the_median_patient_is_not_moved_by_one_patient(records, monkeypatch):
    three = {f"{patient}_frame{f}": patient for patient in ("a", "b", "c") for f in (1, 2)}
    monkeypatch.setattr(sys.modules[__name__], "CASES", three)
    gains = np.repeat([30.0, 0.2, -0.6], 2)[:, None]
    dice = {("nnU-Net", 0): [[50, 60]] * 6, ("new", 0): (np.array([[50, 60]] * 6) + gains).tolist()}
    dice |= {("nnU-Net", 1): [[50, 60]] * 6, ("new", 1): (np.array([[50, 60]] * 6) + gains + 0.2).tolist()}
    results = keep(records, dice)
    assert results.difference("new").value == pytest.approx(29.9 / 3, abs=0.1) and results.median_text("new") == "+0.3"
    assert results.median_text("nnU-Net") == "-"


def test_the_own_method_is_compared_with_every_other_way_on_common_seeds(records):
    dice = {("nnU-Net", seed): FLAT for seed in (0, 1)} | {("all labels", 0): plus(FLAT, 20)}
    dice |= {("new", 0): plus(FLAT, 4), ("new", 1): plus(FLAT, 9), ("other", 1): plus(FLAT, 7, 6), ("other", 2): FLAT}
    results = keep(records, dice)
    assert results.own_minus_text("other") == "+2.5 [+2.5, +2.5]"  # seed 1; frames of a patient stay together
    assert [results.own_minus_text(key) for key in ("nnU-Net", "all labels", "new")] == ["-"] * 3
    assert "new minus this row" in study_report.main_table(results)
    dice.pop(("other", 1))
    table = study_report.main_table(keep(records, dice))  # no common seed, no column
    assert "| other " in table and "minus" not in table


def test_rows_in_another_precision_are_marked(records):
    dice = {(key, seed): FLAT for key in ("nnU-Net", "new", "other") for seed in (0, 1)}
    keep(records, dice)
    file = records / "ACDC_2.5mm_runs.csv"
    runs = pd.read_csv(file)
    runs.loc[runs["seed"] == 1, "precision"] = "bfloat16"
    runs.to_csv(file, index=False)
    same = Results(STUDY)
    assert same.precisions() == "3 in bfloat16, 3 in float32" and "†" not in study_report.page(same)  # seed by seed
    runs.loc[(runs["row"] == "new") & (runs["seed"] == 1), "precision"] = "float32 compiled"
    runs.to_csv(file, index=False)
    mixed = Results(STUDY)
    assert mixed.difference_text("new").endswith("]†") and mixed.own_minus_text("other").endswith("]†")
    assert not mixed.difference_text("other").endswith("†")
    assert study_report.PRECISION_NOTE in study_report.page(mixed)
    assert study_report.PRECISION_NOTE in study_report.short_table(mixed)
    assert study_report.PRECISION_NOTE not in study_report.short_table(mixed, ["other"])


def test_a_head_room_between_two_precisions_is_marked(records):
    keep(records, {("nnU-Net", 0): FLAT, ("new", 0): plus(FLAT, 5), ("all labels", 0): plus(FLAT, 20)})
    file = records / "ACDC_2.5mm_runs.csv"
    runs = pd.read_csv(file)
    runs.loc[runs["row"] == "all labels", "precision"] = "bfloat16"
    runs.to_csv(file, index=False)
    results = Results(STUDY)
    assert results.share_text("new") == "+25 [+25, +25]" and not results.difference_text("new").endswith("†")
    pages = (
        study_report.page(results),
        study_report.short_table(results, ["new"]),
        study_report.overview({"S": results}),
    )
    for text in pages:
        assert "20.0 [20.0, 20.0]†" in text and study_report.PRECISION_NOTE in text
    runs["precision"] = "float32"
    runs.to_csv(file, index=False)
    results = Results(STUDY)
    assert "†" not in study_report.page(results) + study_report.overview({"S": results})


def test_a_page_says_that_defaults_of_the_own_method_were_chosen_on_its_patients(records):
    dice = {("nnU-Net", 0): FLAT, ("all labels", 0): plus(FLAT, 20)}
    assert "were chosen on these patients" not in study_report.page(keep(records, dice))
    assert "Defaults of new were chosen on these patients" in study_report.page(
        keep(records, dice | {("new", 0): FLAT})
    )


def edited(records: Path, *edits: tuple) -> Results:
    """Records with other values: (row, case, class, Dice, 95HD)."""
    file = records / "ACDC_2.5mm.csv"
    cells = pd.read_csv(file)
    for row, case, name, dice, distance in edits:
        here = (cells["row"] == row) & (cells["case"] == case) & (cells["class"] == name)
        cells.loc[here, ["Dice", "95HD"]] = dice, distance
    cells.to_csv(file, index=False)
    return Results(STUDY)


def test_distances_are_of_the_cells_that_both_rows_have(records):
    keep(records, {("nnU-Net", 0): FLAT, ("new", 0): FLAT, ("new", 1): FLAT})
    far = ("nnU-Net", "patient1_frame1", "RV", 10.0, 98.0)
    assert edited(records, far).distance_text("new") == "2.0 (14.0)"  # (98 + 3 x 2) / 4 and 2
    missed = ("new", "patient1_frame1", "RV", 0.0, np.nan)
    results = edited(records, far, missed)
    assert results.distance_text("new") == "2.0 (2.0)" and results.distance_text("nnU-Net") == "14.0"
    assert results.distance_text("all labels") == "-"


def test_a_class_is_missed_only_where_the_reference_has_it(records):
    nothing, both = (0.0, np.nan), (np.nan, np.nan)
    keep(records, {("nnU-Net", 0): FLAT, ("new", 0): FLAT, ("other", 0): FLAT})
    cells = [("patient1_frame1", "RV"), ("patient1_frame2", "RV"), ("patient2_frame1", "RV")]
    results = edited(
        records,
        ("new", *cells[0], *nothing),  # the others met it
        *(
            (key, *cells[1], *nothing) for key in ("new", "other")
        ),  # predicted where nothing is: nnU-Net found both empty
        ("nnU-Net", *cells[1], *both),
    )
    assert [results.missed(key) for key in ("nnU-Net", "new", "other")] == ["0", "1", "0"]
    results = edited(records, *((key, *cells[2], *nothing) for key in ("nnU-Net", "new", "other")))  # none can tell
    assert [results.missed(key) for key in ("nnU-Net", "new", "other")] == ["0 to 1", "1 to 2", "0 to 1"]


def test_passes_are_counted_not_timed():
    three, atria, gpu = STUDIES["ACDC_3"], STUDIES["LA_4"], STUDIES["GPU_ACDC_3"]
    expected = {
        (three, "nnU-Net"): "1.00",
        (three, "all labels"): "1.00",
        (three, "nnU-Net, 7/3 steps"): "2.31",  # 37 of 16 epochs
        (three, "MeanTeacher"): "2.33",
        # nnU-Net's until 0.4 or 0.3 of the run, then 7/3, and nnU-Net's again for the last 3 of 70 parts of what is left
        (three, "SemiSupervised"): "1.77 to 1.89",
        (three, "SemiSupervised, all labels"): "1.40 to 1.47",  # half of it
        (three, "SemiSupervised, first form"): "1.80 to 1.93",
        (three, "SemiSupervised, first form, start from 0.05"): "1.80 to 2.27",
        (three, "SemiSupervised, first form, reliability"): "1.80 to 1.93",
        (three, "SemiSupervised, first form, thresholds"): "1.80 to 1.93",
        (three, "SemiSupervised, first form, mirrored"): "2.00 to 2.17",  # a step: 8/3
        (three, "round 1"): "3.00",
        (three, "round 2 above 0.9, rectangles"): "5.00",
        (three, "SemiSupervised from round 1 above 0.9, rectangles, half of the cases"): "4.77 to 4.89",
        (three, "round of SemiSupervised"): "3.77 to 3.89",
        (three, "round 2 above 0.9, rectangles, after half of the cases"): "5.00",
        (three, "SSL4MIS Mean Teacher"): "-",
        (three, "MeanTeacher, same view"): "2.33",
        (three, "CPS, same view"): "-",  # a pass less than counted
        (atria, "SemiSupervised"): "1.76 to 1.89",
        (gpu, "nnFilterMatch"): "2.17",  # begins at 5 of 40 epochs
    }
    for (a_study, key), passes in expected.items():
        assert relative_passes(a_study, a_study.row(key)) == passes, key


def test_a_pack_without_head_room_is_marked(records):
    results = keep(records, {("nnU-Net", 0): FLAT, ("new", 0): FLAT, ("all labels", 0): plus(FLAT, 4)})
    assert results.share("new").text() == "-"
    assert "Below 5 Dice: this pack cannot tell methods apart" in study_report.head_room_text(results)
    assert "(too small)" in study_report.overview({"S": results})
    unknown = keep(records, {("nnU-Net", 0): FLAT, ("all labels", 1): FLAT})
    assert "not known" in study_report.head_room_text(unknown)


def test_records_and_quotations_that_do_not_fit_are_refused(records, monkeypatch):
    results = keep(records, {("nnU-Net", 0): FLAT})
    monkeypatch.setattr(study_report, "STUDIES", {"S": STUDY})
    readme = records.parents[1] / "README.md"
    with pytest.raises(UserError, match="S has no row EMA: nnU-Net, new, all labels"):
        study_report.texts({"S": results})
    readme.write_text("<!-- study:T -->\n<!-- /study -->")
    with pytest.raises(UserError, match="there is no study T; allowed are all, S"):
        study_report.texts({"S": results})
    cells = pd.read_csv(records / "ACDC_2.5mm.csv")
    one_less = cells[cells["case"] != "patient1_frame1"].assign(row="new")
    pd.concat([cells, one_less]).to_csv(records / "ACDC_2.5mm.csv", index=False)
    with pytest.raises(UserError, match="row new, seed 0, has 3 of 4 cases"):
        Results(STUDY)
    other_seed = one_less.assign(row="nnU-Net", seed=1)
    pd.concat([cells, other_seed]).to_csv(records / "ACDC_2.5mm.csv", index=False)
    with pytest.raises(UserError, match="row nnU-Net, seed 1, has 3 of 4 cases"):
        Results(STUDY)
    cells.drop(columns="patient").to_csv(records / "ACDC_2.5mm.csv", index=False)
    with pytest.raises(UserError, match="expected are data, row, seed, patient"):
        Results(STUDY)


def test_the_list_names_what_is_recorded(faked, tmp_path, capsys):
    assert run(tmp_path, "--rows", "nnU-Net", "--seeds", 0, 1) == 0
    assert study.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("nnU-Net" in line and line.endswith("500 steps; seeds recorded: 0, 1") for line in lines)
    assert any("peer" in line and line.endswith("measured elsewhere; seeds recorded: -") for line in lines)
