"""nnU-Net's `nnUNetv2_train` with a stopwatch.

    python benchmarks/measured_training.py --measured FILE 27 2d 0 -tr nnUNetTrainer_4epochs -device cpu

Other arguments are those of `nnUNetv2_train`. FILE (JSON) gets, after every epoch,

    seconds             wall time of each training step, waiting for data not included; steps of a run that was stopped and
                        continued (`--c`) are added
    cpu_seconds         processor time of the main process in each of these steps, which other processes disturb less
    peak_memory_bytes   of tensors on the GPU, or the main process's largest resident set (RSS) on CPU
    memory              "CUDA" or "RSS": which of them
    precision           of the networks: float32 (CPU), bfloat16 (CPU, on request) or float16 (nnU-Net's mixed precision on a GPU);
                        "float32 compiled" where they are compiled on CPU, on request (nnU-Net compiles on GPUs only)

`--set NAME=JSON` gives a class attribute of the trainer another value. The trainer's name must have a suffix (`_<N>epochs`
...). The class that is made for this name, in this process only, gets the methods that measure, so that nnU-Net's classes and
ours stay as they are. It also writes `checkpoint_latest.pth` after every epoch (nnU-Net: every 50), and every checkpoint to another
name first, so that it can be stopped at any moment and little is lost. On request the final validation is left out, or made without
mirroring, which is 4 times faster in 2D and 8 times in 3D (FilterMatch then filters without mirroring too); `validated.json` beside
the checkpoint says how it was made.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from time import perf_counter, process_time

import torch
from nnunetv2.run.run_training import run_training_entry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.engine.configurable import NNUNET_HYPERPARAMETERS

VALIDATED = "validated.json"


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Bytes and what they are, see above."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "CUDA"
    status = Path("/proc/self/status")
    if status.is_file():  # the counter of `resource` keeps what the process that started this one had
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1]), "RSS"
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "RSS"


def measure(
    cls: type,
    file: Path,
    threads: int | None = None,
    validation: bool = True,
    mirroring: bool = True,
    precision: str = "float32",
) -> None:
    """Let a trainer class write its step times and peak memory to `file` after every epoch.

    Args:
        cls: changed in place.
        threads: of torch's operations on CPU; None: nnU-Net's choice, all cores.
        validation: whether there is a final validation.
        mirroring: whether this validation predicts with mirroring, as nnU-Net's does, and FilterMatch for its filter.
        precision: of the networks on CPU, which is written down.
    """
    seconds: list[float] = []
    cpu_seconds: list[float] = []

    def on_train_start(self) -> None:
        if threads is not None and self.device.type == "cpu":
            torch.set_num_threads(threads)
        super(cls, self).on_train_start()

    def train_step(self, batch: dict) -> dict:
        start, cpu_start = perf_counter(), process_time()
        outputs = super(cls, self).train_step(
            batch
        )  # ends with a copy of the loss to the host: a GPU has finished then
        seconds.append(round(perf_counter() - start, 5))
        cpu_seconds.append(round(process_time() - cpu_start, 5))
        return outputs

    def on_epoch_end(self) -> None:
        before = json.loads(file.read_text()) if file.is_file() and self.current_epoch > 0 else {}
        peak, kind = peak_memory(self.device)
        measured = {
            "seconds": before.get("seconds", []) + seconds,
            "cpu_seconds": before.get("cpu_seconds", []) + cpu_seconds,
            "peak_memory_bytes": max(peak, before.get("peak_memory_bytes", 0)),
            "memory": kind,
            "precision": precision if self.device.type == "cpu" else "float16",
        }
        write_json_atomically(measured, file)
        seconds.clear()
        cpu_seconds.clear()
        super(cls, self).on_epoch_end()

    def save_checkpoint(self, filename: str) -> None:
        unfinished = Path(f"{filename}.unfinished")
        super(cls, self).save_checkpoint(str(unfinished))
        if unfinished.is_file():  # not with --disable_checkpointing
            unfinished.replace(filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        if not validation:
            self.print_to_log_file("The final validation is left out.")
            return
        record = Path(self.output_folder) / VALIDATED
        record.unlink(missing_ok=True)
        axes = self.inference_allowed_mirroring_axes
        self.inference_allowed_mirroring_axes = axes if mirroring else None
        try:
            super(cls, self).perform_actual_validation(save_probabilities)
        finally:
            self.inference_allowed_mirroring_axes = axes
        write_json_atomically({"mirroring": mirroring}, record)

    for method in (on_train_start, train_step, on_epoch_end, save_checkpoint, perform_actual_validation):
        setattr(cls, method.__name__, method)
    cls.save_every = 1
    if hasattr(cls, "filter_mirroring"):
        cls.filter_mirroring = cls.filter_mirroring and mirroring


def in_bfloat16(cls: type) -> None:
    """Let the networks of a trainer class compute in bfloat16 on CPU, in mixed precision as nnU-Net's do in float16 on a GPU.

    Parameters, losses and optimizer stay float32, logits become float32. Faster on processors with bfloat16 units.
    """
    build = cls.build_network_architecture

    @functools.wraps(build)  # nnU-Net looks at the names of its arguments
    def build_network_architecture(*args, **kwargs) -> torch.nn.Module:
        network = build(*args, **kwargs)
        plain = type(network)

        def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = plain.forward(self, x)
            return outputs.float() if isinstance(outputs, torch.Tensor) else [z.float() for z in outputs]

        # a class, because a function of the object would keep computing with the weights of this network in its copies
        network.__class__ = type(plain.__name__, (plain,), {"forward": forward})
        return network

    cls.build_network_architecture = staticmethod(build_network_architecture)


def become_idle() -> None:
    """Take only the processor time that no other process wants; the workers inherit it. Linux."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    group = Path("/proc/self/autogroup")  # the scheduler weighs groups of processes (sessions) before processes
    if group.is_file():
        group.write_text("19")


def main() -> None:
    parser = argparse.ArgumentParser(description="nnUNetv2_train that measures", allow_abbrev=False)
    parser.add_argument("--measured", type=Path, required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=None, metavar="N")
    parser.add_argument("--idle", action="store_true", help="use only what no other process wants of the processor")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="another value of a class attribute of the trainer",
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="networks in mixed precision on CPU, as nnU-Net's on a GPU"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks on CPU, as nnU-Net's are on a GPU")
    parser.add_argument("--no_validation", action="store_true")
    parser.add_argument("--disable_tta", action="store_true", help="validate without mirroring")
    parser.add_argument("-tr", required=True)
    args, others = parser.parse_known_args()
    if args.idle:
        become_idle()
    cls = find_trainer(args.tr)
    for name, _, value in (setting.partition("=") for setting in args.set):
        if not hasattr(cls, name) and name not in NNUNET_HYPERPARAMETERS:
            parser.error(f"--set {name}: {args.tr} has no such attribute")
        setattr(cls, name, json.loads(value))
    if args.bfloat16:
        in_bfloat16(cls)
    precision = "bfloat16" if args.bfloat16 else "float32"
    if args.compile:
        cls._do_i_compile = lambda self: True  # of itself nnU-Net does so on GPUs only
        precision += " compiled"
    measure(cls, args.measured, args.threads, not args.no_validation, not args.disable_tta, precision)
    sys.argv = ["nnUNetv2_train", *others, "-tr", args.tr]
    run_training_entry()


if __name__ == "__main__":
    main()
