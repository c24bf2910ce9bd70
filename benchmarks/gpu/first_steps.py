"""One trainer's first steps under nnU-Net's defaults: does it compile, how long is a step, how much memory, how much arithmetic.

    python -m benchmarks.gpu.first_steps nnUNetTrainerMeanTeacher --dimension 2 --table FILE

adds a row to FILE (CSV). Patches, batch and network are nnU-Net's usual ones, the images phantoms larger than a patch. Steps are in
the last quarter of a run, where no stage and no warm-up is left. Timed steps hold a lock beside FILE: of several such processes one
times while the others compile. `gflop` counts the convolutions and matrix products of one step, forward and backward: relative to
nnU-Net's it is the floor of the step time, 7/3 for Mean Teacher. What fails is a row with its error.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import statistics
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.measured_training import peak_memory
from benchmarks.step_time import add_row, configuration_of, counted, fitting_dataset, ready, timed_step
from tests.helpers.trainers import needs

FEATURES = {2: [32, 64, 128, 256, 512, 512, 512], 3: [32, 64, 128, 256, 320, 320]}
PATCH = {2: [256, 256], 3: [128, 128, 128]}
BATCH = {2: 12, 3: 2}
COLUMNS = [
    "trainer",
    "configuration",
    "patch",
    "batch",
    "steps",
    "compiled",
    "first_step_s",
    "step_ms",
    "gflop",
    "peak_memory_MiB",
]
COLUMNS += ["device", "torch", "error"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer")
    parser.add_argument("--dimension", type=int, choices=(2, 3), default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--patch", type=int, nargs="+")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--features", type=int, nargs="+")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    args.patch, args.batch, args.features = (
        given or usual[args.dimension]
        for given, usual in ((args.patch, PATCH), (args.batch, BATCH), (args.features, FEATURES))
    )
    row = {
        "trainer": args.trainer,
        "configuration": configuration_of(args),
        "patch": " x ".join(map(str, args.patch)),
        "batch": args.batch,
        "steps": args.steps,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    try:
        measure(args, row)
    except Exception as error:
        traceback.print_exc()
        row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    with locked(args.table):
        add_row(args.table, row, COLUMNS, ["trainer", "configuration", "device"])
    return 1 if "error" in row else 0


def measure(args: argparse.Namespace, row: dict) -> None:
    """Fill `row`; what is measured before an error stays in it."""
    with fitting_dataset(args, **needs(args.trainer)) as (out, dataset):
        row["gflop"] = round(arithmetic(args, out, dataset) / 1e9, 6)
        os.environ["nnUNet_compile"] = "t"
        trainer = ready(args.trainer, args, out, dataset)
        batch = next(trainer.dataloader_train)
        row["compiled"] = trainer._do_i_compile()
        row["first_step_s"] = round(timed_step(trainer, batch)[0], 1)
        for _ in range(3):
            timed_step(trainer, batch)
        with locked(args.table.with_suffix(".device")):
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = [timed_step(trainer, batch)[0] for _ in range(args.steps)]
        row["step_ms"] = round(1000 * statistics.median(times), 2)
        row["peak_memory_MiB"] = round(peak_memory(trainer.device)[0] / 2**20)


def arithmetic(args: argparse.Namespace, out: Path, dataset: str) -> int:
    """Floating-point operations of one step, not compiled: compiled code cannot be counted."""
    os.environ["nnUNet_compile"] = "f"
    trainer = ready(args.trainer, args, out, dataset)
    batch = next(trainer.dataloader_train)
    total = counted(trainer, batch)
    del trainer
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
    return total


@contextmanager
def locked(file: Path):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
