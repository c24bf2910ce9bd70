"""nnU-Net's own commands with our trainers, as processes: training, killing, continuing, validating, predicting."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.helpers.training import copy_dataset

NAME = "nnUNetTrainerMeanTeacher_3epochs_12iters_seed1"
SCRIPTS = Path(sys.executable).parent


def command(*arguments, out, background=False, workers=2):
    environment = os.environ | {
        **{v: str(out / v) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(SCRIPTS / arguments[0]), *map(str, arguments[1:])]
    if background:
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(c) for c in (task / "children").read_text().split()]
    return children + [d for c in children for d in descendants(c)]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """A run that was killed in its second epoch and continued, with everything that was seen on the way."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc to see the processes of a run")
    source, dataset = datasets()
    out = copy_dataset(source, tmp_path_factory.mktemp("commands"))
    run = command("nnUNetv2_train", 991, "2d", 0, "-tr", NAME, "-device", "cpu", out=out, background=True)
    folder = out / "nnUNet_results" / dataset / f"{NAME}__nnUNetPlans__2d" / "fold_0"
    for line in run.stdout:
        if "Epoch 1" in line:
            break
    else:
        pytest.fail(f"the run ended by itself with {run.wait()}")
    workers = descendants(run.pid)
    time.sleep(0.3)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.time() + 10
    while any(map(alive, workers)) and time.time() < deadline:
        time.sleep(0.2)
    survivors = [w for w in workers if alive(w)]
    killed = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    log = command("nnUNetv2_train", 991, "2d", 0, "-tr", NAME, "-device", "cpu", "--c", out=out)
    return {
        "out": out,
        "dataset": dataset,
        "folder": folder,
        "workers": workers,
        "survivors": survivors,
        "killed": killed,
        "log": log,
    }


def test_no_worker_outlives_a_killed_trainer(trained):
    assert len(trained["workers"]) >= 3  # two for training, one for validation
    assert not trained["survivors"]


def test_a_killed_run_continues_from_its_last_checkpoint(trained):
    killed, final = trained["killed"], torch.load(trained["folder"] / "checkpoint_final.pth", weights_only=False)
    assert killed["current_epoch"] == 1 and killed["ssl_state"]["iteration"] == 12
    assert killed["ssl_state"]["teacher_updates"] == {"teacher": 12}
    assert "Epoch 1" in trained["log"] and "Epoch 0" not in trained["log"]
    state = final["ssl_state"]
    assert state["iteration"] == 36 and state["teacher_updates"] == {"teacher": 36} and state["seed"] == 1
    assert all(len(series) == 3 for series in state["curves"].values())
    assert state["curves"]["term/consistency"][0] == killed["ssl_state"]["curves"]["term/consistency"][0]
    weights = state["curves"]["weight/consistency"]
    assert weights == sorted(weights) and weights[0] < weights[-1] <= 5


def test_the_run_leaves_nnunets_files_and_our_figure(trained):
    names = {f.name for f in trained["folder"].iterdir()}
    assert {"progress.png", "progress_ssl.png", "split.json", "checkpoint_final.pth", "checkpoint_best.pth"} <= names
    assert not [n for n in names if n.endswith(".tmp") or n == "checkpoint_latest.pth"]
    assert (trained["folder"] / "validation" / "summary.json").is_file()


def test_stock_predict_equals_the_validation(trained, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    raw = trained["out"] / "nnUNet_raw" / trained["dataset"]
    shutil.copy(raw / "imagesTr" / "case_03_0000.nii.gz", images)
    arguments = ["-i", images, "-o", tmp_path / "predicted", "-d", 991, "-c", "2d", "-f", 0, "-tr", NAME]
    command("nnUNetv2_predict", *arguments, "-device", "cpu", "-npp", 1, "-nps", 1, out=trained["out"])
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "predicted" / "case_03.nii.gz")))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(trained["folder"] / "validation" / "case_03.nii.gz")))
    assert np.array_equal(found, expected)


def test_validation_alone_and_with_the_best_checkpoint(trained):
    for switch in ("--val", "--val_best"):
        summary = trained["folder"] / "validation" / "summary.json"
        summary.unlink()
        arguments = ["--val", switch] if switch != "--val" else ["--val"]
        command("nnUNetv2_train", 991, "2d", 0, "-tr", NAME, "-device", "cpu", *arguments, out=trained["out"])
        assert summary.is_file()


def test_an_exception_in_training_ends_the_workers_and_the_command(trained, tmp_path):
    out = copy_dataset(trained["out"], tmp_path / "data")
    file = out / "nnUNet_preprocessed" / trained["dataset"] / "nnUNetPlans_2d_unlabeled" / "free_00.b2nd"
    file.write_bytes(b"damaged")
    arguments = ["nnUNetv2_train", 991, "2d", 0, "-tr", "nnUNetTrainerMeanTeacher_1epochs_5iters", "-device", "cpu"]
    run = command(*arguments, out=out, background=True)
    output = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "free_00" in output or "background workers are no longer alive" in output
