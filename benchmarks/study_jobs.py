"""Runs of the studies: a row with a seed, where it lies, what is left to do; locks of processes that share a work folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measured_training import VALIDATED
from benchmarks.studies import Row
from nnunet_ssl.evaluation.runs import load_json


@dataclass(frozen=True)
class Job:
    """One run: a row with a seed."""

    row: Row
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.row.pack.name, self.row.key, self.seed

    @property
    def name(self) -> str:
        return self.row.run_name(self.seed)

    @property
    def results(self) -> str:
        """Value of nnUNet_results."""
        folder = Path(os.environ["nnUNet_results"])
        return str(folder.with_name(f"{folder.name}_{self.row.variant}") if self.row.variant else folder)

    @property
    def folder(self) -> Path:
        pack = self.row.pack
        return Path(self.results, pack.dataset, f"{self.name}__nnUNetPlans__{pack.configuration}", "fold_0")

    def __str__(self) -> str:
        return f"{self.row.pack.name}, {self.row.key}, seed {self.seed}"


def measured_file(job: Job) -> Path:
    return job.folder / "measured.json"


def next_switches(job: Job) -> list[str] | None:
    """What `nnUNetv2_train` needs to bring a run to its end, judged by what lies in its folder; None if it is finished."""
    if (job.folder / "checkpoint_final.pth").is_file():
        made = job.folder / VALIDATED
        return None if made.is_file() and load_json(made) == {"mirroring": True} else ["--val"]
    begun = any((job.folder / name).is_file() for name in ("checkpoint_latest.pth", "checkpoint_best.pth"))
    return ["--c"] if begun else []


class TakenElsewhere(Exception):
    """Another process trains this run."""


@contextmanager
def locked(file: Path, wait_for_it: bool = True) -> Iterator[None]:
    """Hold a lock file, or the lock of a folder. TakenElsewhere if another process has it and is not waited for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDONLY if file.is_dir() else os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait_for_it else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise TakenElsewhere from None
    try:
        yield
    finally:
        os.close(descriptor)
