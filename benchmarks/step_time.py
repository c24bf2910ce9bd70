"""Time of a training step against vanilla nnU-Net's, measured in one process.

    python benchmarks/step_time.py                                  a small 2D network on CPU
    python benchmarks/step_time.py --dimension 3 --device cuda --patch 64 128 128 --features 32 64 128 256 320

Steps of the two trainers alternate on the same patches, so that whatever else the machine does meets both. A step of Mean
Teacher on as many unlabeled as labeled patches cannot be cheaper than 7/3 of vanilla's: forward and backward (twice a
forward) of twice the patches, plus one forward of the teacher. A ratio below that floor is a broken measurement. On CPU the
process's CPU time is given beside the wall time: where the two ratios differ, something else was running.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.synthetic import make_dataset
from tests.helpers.training import copy_batch, make_trainer, started

FLOOR = 7 / 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", default="nnUNetTrainerMeanTeacher")
    parser.add_argument("--dimension", type=int, choices=(2, 3), default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--patch", type=int, nargs="+", help="voxels; default 96 96, or 48 64 64 in 3D")
    parser.add_argument("--batch", type=int, help="labeled patches; default 8, or 2 in 3D")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def enlarge(plans: dict, args: argparse.Namespace) -> None:
    """The synthetic data set's plans with the patch, batch and network that were asked for."""
    configuration = plans["configurations"]["2d" if args.dimension == 2 else "3d_fullres"]
    stages = len(args.features)
    configuration["patch_size"] = args.patch or ([96, 96] if args.dimension == 2 else [48, 64, 64])
    configuration["batch_size"] = args.batch or (8 if args.dimension == 2 else 2)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": args.features,
        "kernel_sizes": [[3] * args.dimension] * stages,
        "strides": [[1] * args.dimension] + [[2] * args.dimension] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }


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


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    configuration = "2d" if args.dimension == 2 else "3d_fullres"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        dataset = make_dataset(out, change_plans=lambda plans: enlarge(plans, args))
        os.environ["nnUNet_compile"] = "f" if args.device == "cpu" else "t"
        trainers = [
            started(make_trainer(name, out, dataset, configuration, device=args.device))
            for name in ("nnUNetTrainer", args.tr)
        ]
        for trainer in trainers[1:]:  # past any stage of a method that does less work
            trainer.iteration = 3 * trainer.num_epochs * trainer.num_iterations_per_epoch // 4
        batch = next(trainers[1].dataloader_train)
        labeled = {k: batch[k] for k in ("data", "target", "keys")}
        times: list[list[tuple[float, float]]] = [[], []]
        for step in range(-5, args.steps):
            for i, (trainer, patches) in enumerate(zip(trainers, (labeled, batch), strict=True)):
                measured = timed_step(trainer, patches)
                if step >= 0:
                    times[i].append(measured)
    wall = [statistics.median(t[0] for t in series) for series in times]
    cpu = [statistics.median(t[1] for t in series) for series in times]
    ratio, cpu_ratio = wall[1] / wall[0], cpu[1] / cpu[0]
    print(
        f"{args.device}, {args.threads} threads, patch {args.patch or 'default'}, median of {args.steps} alternating steps"
    )
    print(f"nnUNetTrainer             {1000 * wall[0]:8.1f} ms wall  {1000 * cpu[0]:8.1f} ms process")
    print(f"{args.tr:<25} {1000 * wall[1]:8.1f} ms wall  {1000 * cpu[1]:8.1f} ms process")
    print(f"ratio                     {ratio:8.3f} wall     {cpu_ratio:8.3f} process; floor {FLOOR:.3f}")
    print(f"over the floor            {ratio / FLOOR:8.3f} wall     {cpu_ratio / FLOOR:8.3f} process")
    if min(ratio, cpu_ratio if args.device == "cpu" else ratio) < FLOOR:
        sys.exit("Below the floor: the measurement is broken (too few steps, or a machine that was busy).")


if __name__ == "__main__":
    main()
