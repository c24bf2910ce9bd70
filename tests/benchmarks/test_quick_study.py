"""The quick study: real commands with arguments that they accept, resumed where they stopped, and the table of what came out."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import measured_training, quick_study
from nnunet_ssl.commands import convert, load
from nnunet_ssl.commands import steps as commands
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.engine.configurable import ConfigurableTrainer
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.statistics import summarize
from tests.helpers.training import make_trainer, started

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"
CLASSES = ("RV", "LV")


def option(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


class Commands:
    """Stands in for `run_command`: keeps the words and writes what the next commands and the table need."""

    def __init__(self):
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()

    def __call__(self, words, log, environment, report=None) -> None:
        words = list(map(str, words))
        self.calls.append(words)
        raw, preprocessed = (Path(environment[name]) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
        dataset = preprocessed / "Dataset027_ACDC"
        if "plan_and_preprocess" in words:
            (raw / "Dataset027_ACDC" / "imagesTr").mkdir(parents=True)
            dataset.mkdir(parents=True)
            plans = {"configurations": {"2d_small": {"patch_size": [96, 96], "batch_size": 8}}}
            (dataset / "nnUNetPlans.json").write_text(json.dumps(plans))
            (dataset / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
        elif "--measured" in words:
            if option(words, "-tr") in self.failing:
                raise UserError("exit code 1")
            report(0)
            self.train(Path(option(words, "--measured")))
        elif "compare" in words:
            self.compare(Path(option(words, "-o")), words[words.index("-tr") + 1 : words.index("-o")])

    @staticmethod
    def train(measured: Path) -> None:
        measured.parent.mkdir(parents=True, exist_ok=True)
        (measured.parent / "validated.json").write_text(json.dumps({"mirroring": True}))
        measured.write_text(json.dumps({"seconds": [9.0, 0.2, 0.3], "peak_memory_bytes": 2**30, "memory": "RSS"}))
        (measured.parent / "debug.json").write_text(json.dumps({"num_iterations_per_epoch": "5"}))
        checkpoint = {"logging": {"train_losses": [1.0, 0.9]}}
        torch.save(checkpoint, measured.parent / "checkpoint_final.pth")

    @staticmethod
    def compare(output: Path, trainers: list[str]) -> None:
        values = {("Dice", "%"): 70.0, ("95HD", "mm"): 9.0}
        rows = [
            {
                "trainer": trainer,
                "fold": "0",
                "case": f"case{case}",
                "class": name,
                "metric": metric,
                "unit": unit,
                "value": values.get((metric, unit), 1.0) + 2 * index + 10 * position + case,
                "empty": "",
            }
            for index, trainer in enumerate(trainers)
            for position, name in enumerate(CLASSES)
            for case in range(3)
            for metric, unit in METRICS
        ]
        output.mkdir(parents=True, exist_ok=True)
        summarize(pd.DataFrame(rows), trainers, CLASSES).to_csv(output / "compare_summary.csv", index=False)

    @property
    def trainings(self) -> list[list[str]]:
        """Trainer and switches of the trainings so far."""
        return [[option(w, "-tr"), *w[w.index("-device") + 2 :]] for w in self.calls if "--measured" in w]


@pytest.fixture
def faked(monkeypatch, tmp_path) -> Commands:
    fake = Commands()
    monkeypatch.setattr(commands, "run_command", fake)
    monkeypatch.setattr(quick_study, "run_command", fake)
    (tmp_path / "acdc").mkdir()
    return fake


def study(tmp_path, *words: object) -> int:
    common = ["ACDC", "--data", tmp_path / "acdc", "--out", tmp_path / "out", "--epochs", 2, "--iters", 5]
    return quick_study.main(list(map(str, [*common, *words])))


def output_of(tmp_path) -> Path:
    return tmp_path / "out" / "ACDC_7_small" / "2epochs_5iters"


def test_a_study_trains_all_and_writes_the_table(faked, tmp_path, capsys):
    assert study(tmp_path, "-tr", MEAN_TEACHER, "--seeds", 0, 1, "--jobs", 2) == 0
    names = [f"{t}_2epochs_5iters_seed{s}" for s in (0, 1) for t in ("nnUNetTrainer", MEAN_TEACHER)]
    assert sorted(name for name, *_ in faked.trainings) == sorted(names)
    assert [w[w.index("-tr") + 1 : w.index("-o")] for w in faked.calls if "compare" in w] == [names[:2], names[2:]]

    table = pd.read_csv(output_of(tmp_path) / "quick_study.csv")
    assert table[["trainer", "seed"]].to_numpy().tolist() == [
        ["nnUNetTrainer", 0],
        [MEAN_TEACHER, 0],
        ["nnUNetTrainer", 1],
        [MEAN_TEACHER, 1],
    ]
    mean_teacher = table.iloc[1]
    assert mean_teacher[["Dice RV", "Dice LV", "Dice mean", "Dice difference"]].tolist() == [73, 83, 78, 2]
    assert mean_teacher[["95HD mean", "95HD difference", "missed"]].tolist() == [17, 2, 0]
    assert mean_teacher[["iterations", "seconds per step", "peak memory (MiB)"]].tolist() == [10, 0.3, 1024]
    assert np.isnan(table.iloc[0]["Dice difference"])
    report = (output_of(tmp_path) / "quick_study.md").read_text()
    assert "+2.00" in report and "Means over seeds" in report and "96 x 96" in report
    assert report in capsys.readouterr().out
    assert (output_of(tmp_path) / "quick_study.png").stat().st_size > 5000

    assert study(tmp_path) == 0  # nnU-Net alone
    assert len(pd.read_csv(output_of(tmp_path) / "quick_study.csv")) == 1


def test_it_continues_where_it_stopped(faked, tmp_path):
    faked.failing = {f"{MEAN_TEACHER}_2epochs_5iters_seed0"}
    assert study(tmp_path, "-tr", MEAN_TEACHER, "nnUNetTrainerCPS") == 1  # the others are trained all the same
    assert "Not finished" in (output_of(tmp_path) / "quick_study.md").read_text()
    assert len(pd.read_csv(output_of(tmp_path) / "quick_study.csv")) == 2
    faked.failing.clear()
    faked.calls.clear()

    experiment = quick_study.Experiment("Dataset027_ACDC", "2d_small")
    begun = experiment.model_folder(f"{MEAN_TEACHER}_2epochs_5iters_seed0") / "fold_0"
    begun.mkdir(parents=True)
    (begun / "checkpoint_latest.pth").touch()
    cps = experiment.model_folder("nnUNetTrainerCPS_2epochs_5iters_seed0") / "fold_0"
    (cps / "validated.json").write_text(json.dumps({"mirroring": False}))
    training = quick_study.Training("nnUNetTrainerCPS", 0, 2, 5)
    assert quick_study.next_switches(experiment, training, {"mirroring": True}) == ["--val"]
    assert quick_study.next_switches(experiment, training, {"mirroring": False}) is None
    (cps / "validated.json").unlink()
    assert quick_study.next_switches(experiment, training, {"mirroring": True}) == ["--val"]
    assert quick_study.next_switches(experiment, training, None) is None
    (cps / "validated.json").write_text(json.dumps({"mirroring": True}))
    assert study(tmp_path, "-tr", MEAN_TEACHER, "nnUNetTrainerCPS") == 0
    assert faked.trainings == [[f"{MEAN_TEACHER}_2epochs_5iters_seed0", "--c"]]
    assert not [w for w in faked.calls if "convert" in w]
    assert len(pd.read_csv(output_of(tmp_path) / "quick_study.csv")) == 3

    faked.calls.clear()
    assert study(tmp_path, "-tr", MEAN_TEACHER, "--report") == 0
    assert [w[1] for w in faked.calls] == ["compare"]


def test_what_cannot_be_done_is_said_before_anything_is_trained(faked, tmp_path, capsys, monkeypatch):
    def error(*words) -> str:
        assert study(tmp_path, *words) == 1
        return capsys.readouterr().err

    assert "-tr nnUNetTrainerMeen" in error("-tr", "nnUNetTrainerMeen")
    assert "without suffixes" in error("-tr", f"{MEAN_TEACHER}_2epochs")
    assert "at least 1" in error("--jobs", "0")
    assert "nnU-Net plans its own" in error("--plan", "nnunet", "--batch_size", 4)
    assert "no run of nnUNetTrainer is finished" in error("--report")
    assert not faked.calls
    assert "no test cases of ACDC" in error("--test")
    assert "batch_size 8 (now 4)" in error("--batch_size", "4")
    monkeypatch.setattr(quick_study, "SHARED", tmp_path / "missing")
    assert quick_study.main(["LA", "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path / 'missing' / 'data' / 'la'} is no folder" in message and "--data" in message
    assert not faked.trainings


def test_the_commands_accept_its_arguments(tmp_path, monkeypatch):
    arguments = quick_study.parse_arguments(["LA", "--out", str(tmp_path), "--data", str(tmp_path), "--jobs", "2"])
    settings = quick_study.settings_of(arguments)
    typed = {step.name: step.action for step in quick_study.preparing_steps(settings, 3)}

    def parse(module, words):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        return parser.parse_args(words)

    for name in ("convert", "plan_and_preprocess"):
        parsed = parse(load(name), typed[name][2:])
        if name == "convert":
            parsed = parse(importlib.import_module(convert.DATASETS["LA"][0]), parsed.arguments)
            assert (parsed.dataset_id, parsed.labeled, parsed.input) == (101, "8", tmp_path)
    assert parsed.overwrite_target_spacing == ["2", "2", "2"]
    assert typed["small"][:3] == ["python", "-m", "nnunet_ssl.plans.small"]
    everyone = quick_study.EVERYONE
    for pack, labeled, dense, weaken in (
        ("ACDC_scribbles", "20", 127, None),
        ("ACDC_points", everyone, 27, ("27", 128, "points")),
        ("ACDC_points_expanded", everyone, 27, ("27", 128, "points")),
        ("LA_boxes", everyone, 101, ("101", 201, "boxes")),
    ):
        sparse = quick_study.PACKS[pack]
        steps = quick_study.preparing_steps(replace(settings, labeled=labeled), 3, sparse)
        made = [step.name for step in steps if step.name in ("weaken", "expand")]
        assert made == ["weaken"] * bool(sparse.weaken) + ["expand"] * (pack == "ACDC_points_expanded")
        for step in steps[:-1]:
            parsed = parse(load(step.action[1]), step.action[2:])
            if step.name == "convert":
                parsed = parse(importlib.import_module(convert.DATASETS[sparse.converter][0]), parsed.arguments)
                assert (parsed.dataset_id, parsed.labeled) == (dense, None if labeled == everyone else labeled)
                assert vars(parsed).get("scribbles") == (
                    str(tmp_path.parent / "acdc_scribbles") if pack == "ACDC_scribbles" else None
                )
            elif step.name == "weaken":
                assert (parsed.d, parsed.o, parsed.kind) == weaken
            elif step.name == "expand":
                assert (parsed.d, parsed.o, parsed.method, parsed.threshold) == ("128", 129, "geodesic", 0.05)
            else:
                assert parsed.d == [str(sparse.dataset_id)]

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    experiment = quick_study.Experiment("Dataset101_LA", "3d_fullres_small")
    training = quick_study.Training(MEAN_TEACHER, 4, 2, 3)
    arguments.disable_tta = True
    command = quick_study.train_command(experiment, training, {"mirroring": False}, ["--c"], arguments)
    assert {"--no_validation", "--disable_tta"} < set(
        quick_study.train_command(experiment, training, None, [], arguments)
    )
    seen = {}
    monkeypatch.setattr(sys, "argv", command[1:])
    monkeypatch.setattr(measured_training, "measure", lambda *given: seen.update(measured=given))
    monkeypatch.setattr(measured_training, "run_training_entry", lambda: seen.update(argv=sys.argv))
    measured_training.main()
    folder = tmp_path / "Dataset101_LA" / f"{training.name}__nnUNetPlans__3d_fullres_small" / "fold_0"
    cls, file, threads, validation, mirroring = seen["measured"]
    assert (cls, file, validation, mirroring) == (find_trainer(training.name), folder / "measured.json", True, False)
    assert threads == max(1, os.cpu_count() // 2)
    expected = ["nnUNetv2_train", "101", "3d_fullres_small", "0", "-device", "cpu", "--c", "-tr", training.name]
    assert seen["argv"] == expected


@pytest.mark.parametrize("name", ["nnUNetTrainer", MEAN_TEACHER])
def test_steps_are_timed_and_memory_is_measured(name, datasets, tmp_path):
    out, dataset = datasets()
    cls = find_trainer(f"{name}_2epochs_2iters_seed987")
    file = tmp_path / "measured.json"
    measured_training.measure(cls, file, threads=1)
    trainer = started(make_trainer(cls, out, dataset, results=tmp_path))
    for _ in range(2):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
        trainer.on_train_epoch_end(outputs)
        trainer.on_validation_epoch_start()
        with torch.no_grad():
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()
        measured = json.loads(file.read_text())
        assert len(measured["seconds"]) == 2 * trainer.current_epoch and min(measured["seconds"]) > 0
    assert measured["memory"] == "RSS" and 2**26 < measured["peak_memory_bytes"] < 2**36
    assert torch.load(next(tmp_path.rglob("checkpoint_latest.pth")), weights_only=False)["current_epoch"] == 1
    assert "train_step" not in vars(ConfigurableTrainer)


def test_validation_is_made_without_mirroring_or_left_out(datasets, tmp_path, monkeypatch):
    out, dataset = datasets()
    seen = []
    monkeypatch.setattr(
        ConfigurableTrainer,
        "perform_actual_validation",
        lambda self, save_probabilities=False: seen.append(self.inference_allowed_mirroring_axes),
        raising=False,
    )
    for epochs, options in ((3, {"mirroring": False}), (4, {}), (5, {"validation": False})):
        cls = find_trainer(f"nnUNetTrainer_{epochs}epochs_seed987")
        measured_training.measure(cls, tmp_path / "measured.json", **options)
        trainer = make_trainer(cls, out, dataset, results=tmp_path)
        trainer.inference_allowed_mirroring_axes = (0, 1)
        Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
        trainer.perform_actual_validation()
        assert trainer.inference_allowed_mirroring_axes == (0, 1)
        record = Path(trainer.output_folder) / measured_training.VALIDATED
        expected = None if options == {"validation": False} else {"mirroring": not options}
        assert (json.loads(record.read_text()) if record.is_file() else None) == expected
    assert seen == [None, (0, 1)]
