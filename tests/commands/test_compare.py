"""`nnunet_ssl compare`: the files it writes and how it refuses."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pytest

from nnunet_ssl.cli import main
from nnunet_ssl.commands.compare import add_arguments
from nnunet_ssl.commands.outputs import outputs
from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.evaluation.metrics import METRICS
from tests.helpers.study import DATASET, A, B, Study, cells, guess, run, write


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    return Study.in_environment(tmp_path, monkeypatch)


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


def test_a_prediction_on_another_grid_is_refused_through_the_command(study, capsys):
    folder = study.add_run(A, error=1)
    write(guess(3, 1), folder / "validation" / "case_3.nii.gz", spacing=(0.5, 1.0, 4.0))
    assert main(["compare", "-d", "992", "-c", "2d", "-f", "0", "-tr", A, "-np", "1"]) == 1
    message = capsys.readouterr().err
    assert "case_3.nii.gz" in message and "spacing" in message and "--val" in message
    assert not (study.results / "compare_2d_0").exists()


@pytest.mark.parametrize("words", [[], ["--test"], ["-o", "here"]])
def test_two_comparisons_that_write_to_one_folder_take_turns(study, words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["-d", "992", "-c", "2d", "-f", "0", "1", "-tr", A, *words])
    name = "compare_2d_0_1_test" if "--test" in words else "compare_2d_0_1"
    assert outputs("compare", args) == [Path("here") if "-o" in words else study.results / name]


WRITTEN = (
    "{model}/plans.json",
    "{model}/dataset.json",
    "{model}/fold_0/split.json",
    "{model}/fold_0/validation/summary.json",
    "{model}/fold_0/checkpoint_final.pth",
)
SPOILED = {
    "empty": b"",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "binary": bytes(range(256)),
    "numbers": b'{"configurations": 3, "labels": 4, "metric_per_case": [5], "train": 6, "val": null, "file_ending": 1}',
    "texts": b'{"configurations": {"2d": "x"}, "labels": {"a": "b"}, "metric_per_case": ["c"], "train": "d", "val": ["e"]}',
}


@pytest.mark.parametrize("content", SPOILED)
@pytest.mark.parametrize("file", WRITTEN)
@pytest.mark.parametrize("trainer", [A, B])
def test_a_spoiled_file_of_a_model_is_named_in_one_sentence(study, capsys, trainer, file, content):
    for name, error in ((A, 3), (B, 1)):
        study.add_run(name, error, record_split=True)
    name = file.format(model=f"{trainer}__nnUNetPlans__2d")
    (study.results / name).write_bytes(SPOILED[content])
    assert main(["compare", "-d", "992", "-c", "2d", "-f", "0", "-tr", A, B, "-np", "1"]) == 1
    said = capsys.readouterr().err
    assert name in said and "Traceback" not in said and not (study.results / "compare_2d_0").exists()


def test_what_debug_json_holds_in_place_of_a_number_is_not_known(study):
    for name, error in ((A, 3), (B, 1)):
        (study.add_run(name, error) / "debug.json").write_text('{"num_iterations_per_epoch": [1]}')
    assert run([A, B]).is_dir()
