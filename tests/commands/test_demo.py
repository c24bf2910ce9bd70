"""The demo: real commands with arguments that they accept, run in order, continued, and ended with their workers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from nnunet_ssl.commands import convert, demo, load
from nnunet_ssl.commands import steps as commands
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import predictions_figure

# Stands in for the console commands: writes what the next steps need, and a line about each call.
STUB = """#!{python}
import json, os, sys
from pathlib import Path

name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
calls = Path({calls!r})
with calls.open("a") as file:
    file.write(json.dumps([name, *arguments]) + "\\n")
if os.environ.get("STUB_FAILS") in (name, *arguments[:1]):
    print("something is wrong with the data")
    sys.exit(3)
option = lambda flag: Path(arguments[arguments.index(flag) + 1])
if arguments[0] == "plan_and_preprocess":
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset101_LA"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps({{"configurations": {{"2d": {{"patch_size": [64, 64]}}}}}}))
elif name == "nnUNetv2_train":
    folder = Path(os.environ["nnUNet_results"], "Dataset101_LA", option("-tr").name + "__nnUNetPlans__2d_small")
    folder.mkdir(parents=True)
    print("2026-01-01 00:00:00.000000: Epoch 0")
elif arguments[0] == "compare":
    option("-o").mkdir()
    (option("-o") / "compare.md").write_text("| the table |")
"""


def _parse(module, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def _arguments(*words: object) -> argparse.Namespace:
    return _parse(demo, list(map(str, words)))


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """The demo with stubs for the commands, and for what needs their results; returns the file with the calls."""
    folder, calls = tmp_path / "commands", tmp_path / "calls.txt"
    folder.mkdir()
    for name in ("nnunet_ssl", "nnUNetv2_train", "nnUNetv2_predict"):
        file = folder / name
        file.write_text(STUB.format(python=sys.executable, calls=str(calls)))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(commands, "find_command", lambda name: str(folder / name))
    monkeypatch.setattr(demo, "_write_phantoms", lambda root, seed: root.mkdir())
    monkeypatch.setattr("nnunet_ssl.plans.small.add_small_configuration", lambda *arguments: "2d_small")
    monkeypatch.setattr(demo, "draw_figure", lambda work, settings: (work / "demo.png").touch())
    return calls


def _calls(file: Path) -> list[list[str]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_the_public_commands_accept_the_arguments_of_the_demo(tmp_path):
    settings = demo.Settings(None, "4", "2d", 5, 10, 0)
    steps = demo.plan_steps(tmp_path, settings, "cpu", 2)
    typed = {step.name: step.action for step in steps if not callable(step.action)}
    ours = [words for words in typed.values() if words[0] == "nnunet_ssl"]
    assert [words[1] for words in ours] == ["convert", "plan_and_preprocess", "compare"]
    for words in ours:
        parsed = _parse(load(words[1]), words[2:])
        if words[1] == "convert":
            module = importlib.import_module(convert.DATASETS[parsed.dataset][0])
            parsed = _parse(module, parsed.arguments)
            assert (parsed.dataset_id, parsed.labeled, parsed.input) == (101, "4", tmp_path / "phantoms")
        if words[1] == "compare":
            assert parsed.tr == [f"{name}_5epochs_10iters_seed0" for name in demo.TRAINERS]
            assert parsed.test
            assert parsed.device == "cpu"
    for trainer in settings.trainers:
        assert typed[f"train_{trainer}"][:6] == ["nnUNetv2_train", "101", "2d_small", "0", "-tr", trainer]
    for line in demo.NEXT.splitlines()[1:]:
        name, *words = line.split()
        if name == "nnunet_ssl":
            _parse(load(words[0]), words[1:])
        assert "nnUNetTrainer" not in line or find_trainer(words[words.index("-tr") + 1])


def test_all_steps_run_once_in_order_and_the_table_is_printed(stubs, tmp_path, capsys):
    work = tmp_path / "work"
    demo.run(_arguments("-o", work, "--epochs", 1, "--iters", 2))
    calls = _calls(stubs)
    assert [call[1] if call[0] == "nnunet_ssl" else call[0] for call in calls] == [
        "convert",
        "plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_train",
        "nnUNetv2_train",
        "compare",
    ]
    trained = [call[call.index("-tr") + 1] for call in calls if call[0] == "nnUNetv2_train"]
    assert trained == [f"{name}_1epochs_2iters_seed0" for name in demo.TRAINERS]
    printed = capsys.readouterr().out
    assert "| the table |" in printed and printed.endswith(f"{demo.NEXT}\n")
    assert f"export nnUNet_raw={work / 'nnUNet_raw'}" in printed
    for call in calls:
        assert f"$ {' '.join(call)}" in printed
    assert len(list((work / "logs").iterdir())) == len(calls)
    assert (work / "demo.png").is_file()

    demo.run(_arguments("-o", work, "--epochs", 1, "--iters", 2))  # everything is there
    assert _calls(stubs) == calls
    assert "| the table |" in capsys.readouterr().out


def test_a_failing_command_is_named_with_its_log_and_the_demo_continues_there(stubs, tmp_path, monkeypatch):
    work = tmp_path / "work"
    monkeypatch.setenv("STUB_FAILS", "compare")
    with pytest.raises(UserError, match=r"(?s)exit code 3.*nnunet_ssl compare .*logs.*something is wrong") as error:
        demo.run(_arguments("-o", work))
    log = next((work / "logs").glob("*_compare.txt"))
    assert str(log) in str(error.value)
    assert "something is wrong with the data" in log.read_text()
    assert len(_calls(stubs)) == 6
    (work / "comparison").mkdir(parents=True)
    leftover = work / "comparison" / "half.md"
    leftover.touch()
    monkeypatch.delenv("STUB_FAILS")
    demo.run(_arguments("-o", work))
    assert [call[:2] for call in _calls(stubs)[6:]] == [["nnunet_ssl", "compare"]]
    assert not leftover.exists()


def test_other_settings_need_another_folder_or_overwrite(stubs, tmp_path):
    work = tmp_path / "work"
    demo.run(_arguments("-o", work))
    with pytest.raises(UserError, match=r"other settings: labeled 3 \(now 2\).*--overwrite"):
        demo.run(_arguments("-o", work, "--labeled", 2))
    first = len(_calls(stubs))
    with pytest.raises(UserError, match="lies in the work folder"):
        demo.run(_arguments("-o", work, "--data", work / "logs", "--overwrite"))
    demo.run(_arguments("-o", work, "--labeled", 2, "--overwrite"))
    assert len(_calls(stubs)) == 2 * first


@pytest.mark.parametrize(
    "name",
    [
        "mine.txt",
        "logs/mine.txt",
        "nnUNet_raw/Dataset102_Mine/dataset.json",
        "nnUNet_raw/Dataset101_LA/mine.txt",
        "nnUNet_results/Dataset101_LA/nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth",
        "nnUNet_results/Dataset101_LA/nnUNetTrainer_4epochs_80iters_seed0__nnUNetPlans__2d_small/mine.txt",
    ],
)
def test_a_demo_with_files_of_others_is_not_replaced(stubs, tmp_path, monkeypatch, name):
    work = tmp_path / "work"
    monkeypatch.setenv("STUB_FAILS", "compare")
    with pytest.raises(UserError, match="exit code 3"):
        demo.run(_arguments("-o", work))
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text("kept")
    monkeypatch.delenv("STUB_FAILS")
    demo.run(_arguments("-o", work))  # what it finds there does not become its own
    before = sorted(work.rglob("*"))
    with pytest.raises(UserError, match=rf"1 file\(s\) that were not written by nnunet_ssl.*{name}"):
        demo.run(_arguments("-o", work, "--overwrite"))
    assert sorted(work.rglob("*")) == before and (work / name).read_text() == "kept"
    (work / name).unlink()
    demo.run(_arguments("-o", work, "--overwrite"))


@pytest.mark.parametrize(
    "content", ["{}", "[]", "{", '{"format": 2, "settings": {}}', '{"format": 2, "settings": "mine"}']
)
def test_a_demo_json_of_others_is_no_demo(stubs, tmp_path, content):
    work = tmp_path / "work"
    file = work / "nnUNet_raw" / "Dataset101_LA" / "precious.txt"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    (work / "demo.json").write_text(content)
    with pytest.raises(UserError, match=r"demo\.json"):
        demo.run(_arguments("-o", work, "--overwrite"))
    assert file.read_text() == "mine" and (work / "demo.json").read_text() == content


def test_a_folder_with_other_content_is_never_touched(stubs, tmp_path):
    work = tmp_path / "work"
    (work / "nnUNet_raw").mkdir(parents=True)
    (work / "nnUNet_raw" / "precious.txt").write_text("mine")
    for switch in ([], ["--overwrite"]):
        with pytest.raises(UserError, match="is not empty and holds no demo"):
            demo.run(_arguments("-o", work, *switch))
    assert (work / "nnUNet_raw" / "precious.txt").read_text() == "mine"
    assert not _calls(stubs)


def test_a_real_folder_takes_the_place_of_the_phantoms(stubs, tmp_path):
    (tmp_path / "la").mkdir()
    demo.run(_arguments("-o", tmp_path / "work", "--data", tmp_path / "la"))
    call = _calls(stubs)[0]
    assert call[call.index("-i") + 1] == str(tmp_path / "la")
    assert call[call.index("--labeled") + 1] == "8"
    assert not (tmp_path / "work" / "phantoms").exists()
    with pytest.raises(UserError, match="is no folder"):
        demo.run(_arguments("-o", tmp_path / "other", "--data", tmp_path / "missing"))


def test_commands_see_the_work_folder_the_trainers_and_few_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    monkeypatch.setenv("nnUNet_extTrainer", "/my/trainers")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = commands.child_environment(tmp_path, 2)
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    mine, ours = environment["nnUNet_extTrainer"].split(os.pathsep)
    assert mine == "/my/trainers"
    assert list(Path(ours).glob("*.py"))
    assert (environment["nnUNet_n_proc_DA"], environment["OMP_NUM_THREADS"]) == ("1", "1")


def test_an_interrupted_command_leaves_no_worker_behind(tmp_path, monkeypatch):
    script = tmp_path / "sleeper"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, subprocess, sys, time\n"
        f"worker = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{worker.pid}}')\n"
        "print('2026-01-01 00:00:00.000000: Epoch 7', flush=True)\n"
        "time.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(commands, "find_command", lambda name: str(script))
    reported = []

    def interrupt_when_started(epoch: int | None) -> None:
        reported.append(epoch)
        if epoch is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run_command(["sleeper"], tmp_path / "log.txt", dict(os.environ), interrupt_when_started)
    assert reported[-1] == 7
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if _runs(pid)]


def test_commands_of_threads_end_when_the_block_is_left(tmp_path, monkeypatch):
    script = tmp_path / "sleeper"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(commands, "find_command", lambda name: str(script))
    begin = time.monotonic()
    with pytest.raises(UserError, match="another one failed"), commands.threads_of_commands(2) as (pool, check):
        future = pool.submit(
            commands.run_command, ["sleeper"], tmp_path / "log.txt", dict(os.environ), lambda _: check()
        )
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert commands.done_of([future]) == set() and time.monotonic() - begin < 30
        raise UserError("another one failed")
    assert isinstance(future.exception(), commands.Stopped) and time.monotonic() - begin < 30
    assert not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie, which waits for whoever adopted it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_commands_are_found_beside_the_running_python_and_missing_ones_are_explained(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = Path(commands.find_command("nnUNetv2_train"))
    assert found.parent == Path(sys.executable).absolute().parent
    with pytest.raises(UserError, match="nnUNetv2_missing is neither in"):
        commands.find_command("nnUNetv2_missing")


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--iters", "0"], ["-np", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(words, tmp_path):
    with pytest.raises(UserError, match="must be at least"):
        demo.run(_arguments("-o", tmp_path / "work", *words))
    assert not (tmp_path / "work").exists()


def test_the_figure_shows_truth_and_all_predictions_of_the_worst_median_and_best_case(tmp_path, monkeypatch):
    settings = demo.Settings(None, "4", "2d", 1, 1, 0)
    raw = tmp_path / "nnUNet_raw" / demo.DATASET
    rng = np.random.default_rng(0)
    outlined, rows, figures = [], [], []
    monkeypatch.setattr(
        predictions_figure, "_outline", lambda axis, mask, color: outlined.append((axis, int(mask.sum()), color))
    )
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *a, **options: (figures.append(a[0]), save(*a, **options)))
    for k in range(4):
        truth = np.zeros((6, 20, 24), np.uint8)
        truth[k, 4:12, 5 : 12 + k] = 1
        truth[5, 4, 4] = 1
        image = (100 * truth + rng.integers(0, 50, truth.shape)).astype(np.uint8)
        files = {raw / "imagesTs" / f"case{k}_0000.nii.gz": image, raw / "labelsTs" / f"case{k}.nii.gz": truth}
        for number, trainer in enumerate(settings.trainers):
            predicted = np.roll(truth, (3 - k, 0, 2)[number], axis=2)  # nnU-Net is better from case to case
            files[demo.model_folder(tmp_path, trainer, settings) / "test_folds_0" / f"case{k}.nii.gz"] = predicted
            dice = 200 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
            rows += [[trainer, f"case{k}", "Dice", dice], [trainer, f"case{k}", "95HD", 1.0]]
        for file, array in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    (tmp_path / "comparison").mkdir()
    table = pd.DataFrame(rows, columns=["trainer", "case", "metric", "value"])
    table.to_csv(tmp_path / "comparison" / "compare_cases.csv", index=False)
    demo.draw_figure(tmp_path, settings)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert len(outlined) == 3 * 7  # truth in four columns, predictions in three
    (figure,) = figures
    texts = [axis.get_xlabel() for axis in figure.axes]
    assert [axis.get_ylabel() for axis in figure.axes[::5]] == [
        f"{w} case of nnU-Net" for w in ("worst", "median", "best")
    ]
    assert texts[12] == "Dice 100.0 %" and texts[3] == "Dice 100.0 %" and texts[4].startswith("Dice 7")
    assert figure.axes[3].get_title() == "SemiSupervised\nmean Dice 100.0 %"
    # the slice with most of the truth, of cases 0, 2 and 3
    assert [pixels for _, pixels, color in outlined if color == "orange"][::3] == [8 * 7, 8 * 9, 8 * 10]
