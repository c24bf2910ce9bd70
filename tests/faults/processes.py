"""Commands in processes of their own: killed at any moment, two at once. For the tests, and for `python -m tests.faults --long`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.data.ownership import RECORD
from tests.faults.inputs import COMMANDS, NAME, OTHER, write_sound
from tests.helpers import acdc_release
from tests.helpers.paths import REPOSITORY

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# what may differ between two runs, or is packed differently: times, compressed arrays
NOT_COMPARED = (RECORD, ".b2nd", ".pkl", "_made_from.json")


@dataclass(frozen=True)
class Writer:
    """A command that writes, what must be there before, and what it makes."""

    name: str
    words: list[str]
    prepared: str  # "raw", "preprocessed" or "release"
    before: tuple[str, ...] = ()  # commands that are run first, by name

    def command(self, root: Path) -> list[str]:
        return [sys.executable, "-m", "nnunet_ssl.cli", *(word.format(root=root) for word in self.words)]


CONVERT = ["convert", "ACDC", "-i", "{root}/release", "-d", "45", "--labeled", "1", "-np", "1"]
PLAN = ["plan_and_preprocess", "-d", "41", "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"]
WRITERS = {
    writer.name: writer
    for writer in (
        Writer("convert", CONVERT, "release"),
        Writer("convert --overwrite", [*CONVERT, "--overwrite"], "release", ("convert",)),
        Writer("plan_and_preprocess", PLAN, "raw"),
        Writer("preprocess_unlabeled", COMMANDS["preprocess"], "raw", ("plan_and_preprocess", "without unlabeled")),
        Writer("weaken", COMMANDS["weaken"], "raw"),
        Writer("merge", COMMANDS["merge"], "raw"),
        Writer("split", COMMANDS["split"], "raw"),
    )
}


def environment(root: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **{name: str(root / name) for name in FOLDERS}, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def prepare(root: Path, writer: Writer) -> None:
    """The state before the command, in an empty folder."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    if writer.prepared == "release":
        for patient in (*acdc_release.TRAIN[:2], acdc_release.VALIDATION[0]):
            acdc_release.write_patient(root / "release" / "training", patient)
    else:
        for name in (NAME, OTHER):
            write_sound(root / "nnUNet_raw" / name)
    for name in writer.before:
        if name == "without unlabeled":
            shutil.rmtree(next((root / "nnUNet_preprocessed" / NAME).glob("*_unlabeled")))
        else:
            finish(root, WRITERS[name])


def start(root: Path, writer: Writer) -> subprocess.Popen:
    """In a process group of its own."""
    return subprocess.Popen(
        writer.command(root),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(root: Path, writer: Writer) -> float:
    """Run it to its end; seconds. AssertionError with what it printed if it fails."""
    begin = time.monotonic()
    process = start(root, writer)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return time.monotonic() - begin


def contents(root: Path) -> dict[str, str]:
    """Path -> hash of its content, "" where that may differ."""
    found = {}
    for file in root.rglob("*"):
        if file.is_file():
            compared = not file.name.endswith(NOT_COMPARED)
            found[str(file.relative_to(root))] = hashlib.sha256(file.read_bytes()).hexdigest() if compared else ""
    return found


def killed(root: Path, writer: Writer, after: float, by: int = signal.SIGKILL) -> str:
    """Start it and send a signal to its process group after so many seconds; what it had printed."""
    process = start(root, writer)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.killpg(process.pid, by)
    printed, _ = process.communicate(timeout=60)
    return printed


def try_kills(make_root: Callable[[], Path], writer: Writer, number: int, seed: int = 0) -> list[str]:
    """Kill a command at `number` random moments, each time from the beginning, and repeat it; what went wrong."""
    undisturbed = make_root()
    prepare(undisturbed, writer)
    before = contents(undisturbed)
    seconds = finish(undisturbed, writer)
    wanted = contents(undisturbed)
    wrong = []
    for index, share in enumerate(np.random.default_rng(seed).uniform(0.2, 1.0, number)):
        root = make_root()
        prepare(root, writer)
        killed(root, writer, float(share * seconds))
        lost = [path for path in before if path not in contents(root) and "--overwrite" not in writer.name]
        if lost:
            wrong.append(f"kill {index}: lost {lost[:3]}")
        try:
            finish(root, writer)
        except AssertionError as error:
            wrong.append(f"kill {index} at {share:.0%}: {str(error)[-300:]}")
            continue
        found = contents(root)
        if found != wanted:
            paths = sorted(set(found) ^ set(wanted)) or sorted(p for p in wanted if found[p] != wanted[p])
            wrong.append(f"kill {index} at {share:.0%}: differs in {paths[:3]}")
        shutil.rmtree(root)
    return wrong
