"""The queue of a GPU machine, begun or continued. `benchmarks/gpu/start.py` installs, calls this, and stops it in time.

    python -m benchmarks.gpu.work --work DIR --out OUT

1. first steps of nnU-Net and of every trainer, 2D (`first_steps.py`), a CSV row each;
2. studies GPU_*, as `benchmarks/study.py` makes them, in the order of `ORDER`: as far as their releases lie in DIR/data;
3. first steps in 3D.

Runs go side by side, one process with `WORKERS` workers each, as many as there are cores for (docs/gpu.md). Every half minute OUT
gets what `collect.py` keeps. On SIGTERM all processes end; called again, runs continue from their last epoch. Records lie in
DIR/records; a new DIR begins with those of docs/studies, so that what an earlier machine has done is not done again. First steps
that failed are done again in a new DIR, and in the same one with --retry.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pandas as pd

from benchmarks import studies, study, study_report
from benchmarks.gpu import collect, first_steps
from benchmarks.studies import Row, Study
from benchmarks.study_jobs import Job
from nnunet_ssl.commands.steps import done_of, run_command, threads_of_commands
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.errors import UserError
from tests.helpers import acdc_release

WORKERS = 3  # of a training, beside its main process
COLLECT_EVERY = 30  # s
# (study, groups or keys of its rows), in the order of training: reproduce first
ORDER = (
    ("GPU_ACDC_3", ("nnU-Net", "published")),
    ("GPU_ACDC_7", ("nnU-Net", "published")),
    ("GPU_ACDC_3", ("new", "EMA of nnU-Net", "all labels")),
    ("GPU_ACDC_7", ("new", "EMA of nnU-Net")),
    ("GPU_LA_8", ("nnU-Net", "new")),
    ("GPU_ACDC_3", ("controls",)),
    ("GPU_ACDC_7", ("controls",)),
    ("GPU_LA_8", ("head-room", "controls")),
)

# ----------------------------------------------------------------------------------------------------------- rehearsal

_SMALL = {"records": "REHEARSAL", "patch": (32, 32), "batch_size": 2, "features": (4, 8, 8)}
_PACK = replace(
    studies.GPU_ACDC_3, name="Rehearsal", dataset_id=390, make="convert ACDC -i {data}/acdc --labeled 1", **_SMALL
)
_TINY = {"pack": _PACK, "epochs": 4, "iterations": 3}
_PUBLISHED = studies.published_filter_match(_PACK, 4, 1, ("initial_lr=5e-3", "weight_decay=3e-3"))
REHEARSAL = Study(
    "REHEARSAL",
    "Rehearsal",
    "Data that are made up.",
    (
        Row("nnU-Net", trainer="nnUNetTrainer", group="head-room", **_TINY),
        replace(_PUBLISHED[1], iterations=3),
    ),
    seeds=(0,),
    upper="nnU-Net",
)
REHEARSED_STEPS = ["--patch", "32", "32", "--batch", "2", "--features", "4", "8", "8", "--steps", "2"]


def make_up_release(data: Path) -> None:
    """Four patients in the layout of ACDC, with noise and boxes."""
    if not (data / "acdc").is_dir():
        with mock.patch.object(acdc_release, "SHAPE", (11, 40, 36)):
            for patient in (*acdc_release.TRAIN, *acdc_release.VALIDATION):
                acdc_release.write_patient(data / "acdc" / "training", patient)


# ---------------------------------------------------------------------------------------------------------------- work


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--stages", nargs="+", choices=("steps2d", "rows", "steps3d"), default=["steps2d", "rows", "steps3d"]
    )
    parser.add_argument("--trainers", nargs="+", help="of the first steps. Default: nnU-Net's and all of nnunet_ssl")
    parser.add_argument("--retry", action="store_true", help="first steps again whose row here is an error")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument(
        "--rehearse", action="store_true", help="on CPU, tiny, not compiled, with data that are made up"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(words)
    try:
        return run(args)
    except UserError as error:
        print(f"\nwork: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    """All stages that were asked for; 1 if something failed."""
    args.work, args.out = args.work.absolute(), args.out.absolute()
    # not those of the repository, which a later call may find as they were: `collect.py` brings them together
    committed, study_report.FOLDER = study_report.FOLDER, args.work / "records"
    os.environ.setdefault("nnUNet_compile", "f" if args.rehearse else "t")
    for folder in (study_report.FOLDER, args.work / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    if not args.rehearse:
        take_over(committed, study_report.FOLDER)
    stages: dict[str, Callable[[], int]] = {
        "steps2d": lambda: steps(args, 2),
        "rows": lambda: rows(args),
        "steps3d": lambda: steps(args, 3),
    }
    if args.rehearse:
        args.device = "cpu"
        make_up_release(args.work / "data")
        study.STUDIES[REHEARSAL.name] = REHEARSAL
        stages.pop("steps3d")
    ended = threading.Event()
    collector = threading.Thread(target=collect_now_and_then, args=(args, ended))
    collector.start()
    try:
        return max(stages[name]() for name in args.stages if name in stages)
    finally:
        ended.set()
        collector.join()
        collect.write(args.work, args.out)


def take_over(committed: Path, records: Path) -> None:
    """Records GPU_* of the repository to `records`, where a file is not there yet. First steps that failed are left out."""
    for file in sorted(committed.glob("GPU_*.csv")):
        if file.name == collect.CURVES or (records / file.name).is_file():
            continue
        table = pd.read_csv(file)
        if file.name == collect.FIRST_STEPS:
            table = table[table["error"].isna()]
        write_atomically(records / file.name, lambda temporary, t=table: t.to_csv(temporary, index=False))


def measured_here(table: Path, dimension: int, device: str, retry: bool) -> set[str]:
    """Trainers whose first steps have a row of this device; with `retry` one that is no error."""
    if not table.is_file():
        return set()
    rows = pd.read_csv(table)
    known = rows["configuration"].str.startswith(str(dimension)) & (rows["device"] == device)
    return set(rows.loc[known & rows["error"].isna() if retry else known, "trainer"])


def name_of_device(device: str) -> str:
    """As `first_steps.py` writes it; asked in another process, since this one is to hold no memory of the GPU."""
    if device == "cpu":
        return device
    words = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    asked = subprocess.run(words, capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"torch finds no GPU here ({asked.stderr.strip()[-200:]}). On a CPU: --rehearse.")
    return asked.stdout.strip()


def collect_now_and_then(args: argparse.Namespace, ended: threading.Event) -> None:
    while not ended.wait(COLLECT_EVERY):
        collect.write(args.work, args.out)


def steps(args: argparse.Namespace, dimension: int) -> int:
    """First steps of the trainers that have no row yet; 1 if one failed."""
    table = study_report.FOLDER / collect.FIRST_STEPS
    known = measured_here(table, dimension, name_of_device(args.device), args.retry)
    names = args.trainers or [first_steps.VANILLA, *trainer_classes()]
    words = ["python", "-m", "benchmarks.gpu.first_steps", "--table", str(table), "--dimension", str(dimension)]
    words += ["--device", args.device, *(REHEARSED_STEPS if args.rehearse else [])]
    environment = {**environment_of(args, 1), "TORCHINDUCTOR_COMPILE_THREADS": "2"}

    def one(name: str, check: Callable[[], None]) -> int:
        begin = time.monotonic()
        log = args.work / "logs" / f"steps{dimension}d_{name}.txt"
        try:
            run_command([*words, name], log, environment, lambda _: check())
        except UserError as error:
            print(f"{name}: {str(error).splitlines()[-2]}")
            return 1
        print(f"{name}, {dimension}D: {time.monotonic() - begin:.0f} s")
        return 0

    at_once = max(1, args.cores // {2: 2, 3: 8}[dimension])  # in 3D the memory of the GPU is the limit
    with threads_of_commands(at_once) as (pool, check):
        running = {pool.submit(one, name, check) for name in names if name not in known}
        worst = 0
        while running:
            done = done_of(running)
            running -= done
            worst = max((worst, *(future.result() for future in done)))
    return worst


def rows(args: argparse.Namespace) -> int:
    """Prepare and train all rows whose data are here; 1 if one failed."""
    order = [(REHEARSAL.name, None)] if args.rehearse else ORDER
    jobs = dict.fromkeys(
        job
        for name, keys in order
        for job in study.jobs_of([study.STUDIES[name]], keys, None)
        if (args.work / "data" / job.row.pack.make.split()[3].removeprefix("{data}/")).is_dir()
    )
    workers = 1 if args.rehearse else WORKERS
    environment = environment_of(args, workers)
    os.environ.update(environment)
    needed: list[Job] = study.jobs_to_run(list(jobs))
    for pack in dict.fromkeys(job.row.pack for job in needed):
        settings = argparse.Namespace(np=args.cores, data=args.work / "data")
        study.prepare(args.work, pack, settings, environment_of(args, args.cores))
    settings = argparse.Namespace(
        jobs=max(1, args.cores // (1 + workers)),
        idle=False,
        bfloat16=False,
        compile=False,
        device=args.device,
        again=False,
    )
    return 1 if study.train(args.work, needed, settings, environment) else 0


def environment_of(args: argparse.Namespace, np: int) -> Mapping[str, str]:
    environment = study.environment_of(args.work, argparse.Namespace(np=np))
    return {**environment, "nnUNet_n_proc_DA": str(np), "nnUNet_def_n_proc": str(np)}


if __name__ == "__main__":
    study.end_on_sigterm()
    sys.exit(main())
