"""Time and memory of a training step of every trainer, against nnU-Net's and against its floor.

    python -m benchmarks.step_time                                          all trainers, 2D and 3D, on CPU
    python -m benchmarks.step_time -tr nnUNetTrainerMCF --dimension 3       one row anew
    python -m benchmarks.step_time --report                                 the page again, from what is recorded

writes docs/performance.csv and the tables of docs/performance.md. Steps of the trainer and of nnU-Net's alternate in one process,
so that whatever else the machine does meets both; on CPU the time is the processor time of this process, with one thread, on a GPU
the wall time. Steps are at 0.6 of a run, with no stage and no warm-up left and before an end on labels alone.

The floor is arithmetic that is counted and not assumed: the convolutions and matrix products of a step, forward and backward, over
those of nnU-Net's step. It is 7/3 for Mean Teacher: forward and backward (twice a forward) of twice the patches, and one forward
pass of the teacher. Memory is the largest sum of tensors that a step has made and still holds (activations, gradients), over
nnU-Net's; weights and optimizers are not in it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import nnunet_ssl
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.evaluation.tables import markdown_table
from tests.helpers import synthetic
from tests.helpers.paths import REPOSITORY
from tests.helpers.trainers import needs, past_every_switch_and_update
from tests.helpers.training import copy_batch, make_trainer, peak_memory, started

VANILLA = "nnUNetTrainer"
TABLE = REPOSITORY / "docs" / "performance.csv"
PAGE = REPOSITORY / "docs" / "performance.md"
PATCH = {2: [96, 96], 3: [24, 24, 24]}
BATCH = {2: 4, 3: 2}
KEY = ["trainer", "configuration", "device"]
MEASURED = ["step_ms", "nnunet_step_ms", "gflop", "nnunet_gflop", "memory_MiB", "nnunet_memory_MiB"]
COLUMNS = [*KEY, "patch", "batch", "features", "threads", "steps", *MEASURED, "torch", "version", "date"]
LARGEST = 1.1  # time over the floor that the page does not have to explain
_BLOCK = re.compile(r"(<!-- performance:(\w+) -->\n).*?(<!-- /performance -->)", re.DOTALL)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", nargs="+", metavar="TRAINER", help="default: all of nnunet_ssl")
    parser.add_argument("--dimension", type=int, choices=(2, 3), help="default: both")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--patch", type=int, nargs="+", help="voxels; default 96 96, or 24 24 24 in 3D")
    parser.add_argument("--batch", type=int, help="labeled patches, and as many unlabeled ones; default 4, or 2 in 3D")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--table", type=Path, default=TABLE, metavar="FILE", help="where rows go, those of equal name anew"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, write the page")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(words)
    if not args.report:
        torch.set_num_threads(args.threads)
        for dimension in (args.dimension,) if args.dimension else (2, 3):
            measure_all(args, dimension)
    if args.table == TABLE:
        write_atomically(PAGE, lambda temporary: temporary.write_text(page_text(), encoding="utf-8"))
    return 0


# ----------------------------------------------------------------------------------------------------------- measuring


def measure_all(args: argparse.Namespace, dimension: int) -> None:
    """A row per trainer; each is in the table as soon as it is measured."""
    os.environ["nnUNet_compile"] = "f"  # compiled code cannot be counted, and on CPU nnU-Net does not compile
    args = argparse.Namespace(**vars(args) | {"dimension": dimension})
    args.patch, args.batch = args.patch or PATCH[dimension], args.batch or BATCH[dimension]
    same: list[tuple[dict, list[str]]] = []  # what the data set of trainers must have, and these
    for name in args.tr or trainer_classes():
        names = next((names for options, names in same if options == needs(name)), None)
        if names is None:
            same.append((needs(name), [name]))
        else:
            names.append(name)
    for options, names in same:
        with fitting_dataset(args, **options) as (out, dataset):
            vanilla = Measured(VANILLA, args, out, dataset)
            for name in names:
                row = described(name, args) | compared(Measured(name, args, out, dataset), vanilla, args.steps)
                add_row(args.table, row, COLUMNS, KEY)
                seen = with_ratios(pd.DataFrame([row])).iloc[0]
                print(
                    f"{name} {row['configuration']}: {seen['time']:.2f} of nnU-Net's {row['nnunet_step_ms']:.0f} ms, floor "
                    f"{seen['floor']:.2f}, {seen['over']:.2f} over it; memory {seen['memory']:.2f}",
                    flush=True,
                )


def described(name: str, args: argparse.Namespace) -> dict:
    """What a row says beside numbers."""
    return {
        "trainer": name,
        "configuration": configuration_of(args),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "patch": " x ".join(map(str, args.patch)),
        "batch": args.batch,
        "features": " ".join(map(str, args.features)),
        "threads": args.threads,
        "steps": args.steps,
        "torch": torch.__version__,
        "version": nnunet_ssl.__version__,
        "date": date.today().isoformat(),
    }


class Measured:
    """A trainer with patches for its steps, and the arithmetic and the memory of one step."""

    def __init__(self, name: str, args: argparse.Namespace, out: Path, dataset: str):
        self.trainer = ready(name, args, out, dataset)
        self.batch = next(self.trainer.dataloader_train)
        self.gflop = counted(self.trainer, self.batch) / 1e9
        self.memory = peak_memory(self.trainer, copy_batch(self.batch)) / 2**20

    def seconds(self) -> float:
        """Of a step: processor time on a CPU, wall time on a GPU."""
        return timed_step(self.trainer, self.batch)[self.trainer.device.type == "cpu"]


def compared(own: Measured, vanilla: Measured, steps: int) -> dict[str, float]:
    """The measured columns of a row."""
    times = [(own.seconds(), vanilla.seconds()) for _ in range(steps)]
    step, nnunet_step = (1000 * statistics.median(series) for series in zip(*times))
    numbers = (step, nnunet_step, own.gflop, vanilla.gflop, own.memory, vanilla.memory)
    return {column: round(number, 4) for column, number in zip(MEASURED, numbers, strict=True)}


def configuration_of(args: argparse.Namespace) -> str:
    return "2d" if args.dimension == 2 else "3d_fullres"


@contextmanager
def fitting_dataset(args: argparse.Namespace, **options) -> Iterator[tuple[Path, str]]:
    """A data set with these options of `make_dataset`, of phantoms larger than a patch: its root and its name."""
    options.pop("change_plans", None)  # which make small networks deep enough; these are
    larger = (24, 1.1 * args.patch[0], 1.1 * args.patch[1]) if args.dimension == 2 else [1.1 * n for n in args.patch]
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(synthetic, "SHAPE", tuple(map(int, larger))):
            dataset = synthetic.make_dataset(
                Path(folder),
                configurations=(configuration_of(args),),
                change_plans=lambda plans: enlarge(plans, args),
                **options,
            )
        yield Path(folder), dataset


def enlarge(plans: dict, args: argparse.Namespace) -> None:
    """The synthetic data set's plans with the patch, batch and network that were asked for."""
    configuration = plans["configurations"][configuration_of(args)]
    stages = len(args.features)
    configuration["patch_size"] = args.patch
    configuration["batch_size"] = args.batch
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": args.features,
        "kernel_sizes": [[3] * args.dimension] * stages,
        "strides": [[1] * args.dimension] + [[2] * args.dimension] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }


def ready(name: str, args: argparse.Namespace, out: Path, dataset: str):
    """A trainer after all of its switches."""
    trainer = started(make_trainer(name, out, dataset, configuration_of(args), device=args.device))
    if name != VANILLA:
        past_every_switch_and_update(trainer)
    return trainer


class Counter(TorchDispatchMode):
    """Adds up what PyTorch's formulas say of each call. Its own `FlopCounterMode` does not allow `torch.autograd.grad`."""

    def __init__(self):
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted(trainer, batch: dict) -> int:
    """Floating-point operations of the convolutions and matrix products of a step, which must not be compiled."""
    with Counter() as counter:
        trainer.train_step(copy_batch(batch))
    return counter.flop


def timed_step(trainer, batch: dict) -> tuple[float, float]:
    """Wall and process time of one step in seconds."""
    batch = copy_batch(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train_step(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def add_row(file: Path, row: dict, columns: list[str], key: list[str]) -> None:
    """Adds a row to a CSV file, in the place of those that are equal in `key`."""
    table = pd.DataFrame([row]).reindex(columns=columns)
    if file.is_file():
        old = pd.read_csv(file)
        old = old[(old[key] != [row[k] for k in key]).any(axis=1)]
        table = pd.concat([old, table]) if len(old) else table
    table.to_csv(file, index=False)


# ------------------------------------------------------------------------------------------------------------ the page


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with `time`, `floor` and `memory` relative to nnU-Net's, and `over`: time over the floor."""
    table = table.assign(
        time=table["step_ms"] / table["nnunet_step_ms"],
        floor=table["gflop"] / table["nnunet_gflop"],
        memory=table["memory_MiB"] / table["nnunet_memory_MiB"],
    )
    return table.assign(over=table["time"] / table["floor"])


def performance_table(table: pd.DataFrame, configuration: str) -> str:
    """One line per trainer."""
    rows = with_ratios(table[table["configuration"] == configuration]).sort_values("trainer")
    lines = []
    for row in rows.itertuples():
        over = f"**{row.over:.2f}**" if round(row.over, 2) > LARGEST else f"{row.over:.2f}"
        lines.append(
            [
                row.trainer.removeprefix("nnUNetTrainer"),
                f"{row.time:.2f}",
                f"{row.floor:.2f}",
                over,
                f"{row.memory:.2f}",
            ]
        )
    header = ["trainer", "time of a step", "floor", "time over the floor", "memory"]
    return markdown_table(header, lines)


def page_text() -> str:
    """docs/performance.md as it must be, with tables between `<!-- performance:CONFIGURATION -->` and `<!-- /performance -->`."""
    table = pd.read_csv(TABLE)

    def block(match: re.Match) -> str:
        start, configuration, end = match.groups()
        return f"{start}\n{performance_table(table, configuration)}\n\n{end}"

    return _BLOCK.sub(block, PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
