"""Two gloo processes on CPU train steps of one trainer after the other; run by tests/test_trainer.py.

nnU-Net forces the CUDA device and `device_ids` under DDP, so this process replaces the DDP class by one that ignores them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as stock
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.dataloading import streams
from nnunet_ssl.engine import members, prediction
from tests.helpers.trainers import next_batches, past_every_switch_and_update, run_steps
from tests.helpers.training import make_trainer, started, weights_of


class CpuDDP(DistributedDataParallel):
    def __init__(self, module, device_ids=None):
        super().__init__(module)


def share(batch: dict, rank: int, ranks: int) -> dict:
    """This rank's part of a batch."""

    def part(value):
        if isinstance(value, list) and isinstance(value[0], torch.Tensor):
            return [part(v) for v in value]
        n = len(value) // ranks
        return value[rank * n : (rank + 1) * n]

    return {k: part(v) for k, v in batch.items() if k != "pool_version"}


def train(rank: int, ranks: int, job: dict) -> None:
    """The steps of one trainer, and what it then holds, in files of the job's folder."""
    work, reference = job["work"], job["reference"]
    trainer = make_trainer(job["name"], job["out"], job["dataset"], results=work / "two", **job["attributes"])
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    torch.manual_seed(0)
    trainer.initialize()
    trainer.find_cases()
    trainer.view_names = reference["views"]
    trainer.network.module.load_state_dict(reference["start"])
    for key, member in ((m.name, m) for m in trainer.members):
        member.module.load_state_dict(reference["members"][key])
    trainer.set_deep_supervision_enabled(True)
    trainer.lr_scheduler.step(0)
    trainer.network.train()
    losses = [trainer.train_step(share(batch, rank, ranks)) for batch in reference["batches"]]
    trainer.on_train_epoch_end(losses)
    trainer.on_epoch_start()
    trainer.save_checkpoint(str(work / "checkpoint_ddp.pth"))
    torch.save(
        {
            "student": weights_of(trainer.student.module),
            "members": {k: weights_of(m.module) for k, m in ((m.name, m) for m in trainer.members)},
            "gradient_shares": trainer.gradient_shares,
            "batch_size": (trainer.batch_size, streams.unlabeled_batch_size_here(trainer)),
        },
        work / f"rank{rank}.pth",
    )
    dist.barrier()


def train_from_the_start(rank: int, job: dict) -> None:
    """Steps of a trainer as a user starts it: every process has random numbers and loaders of its own."""
    trainer = make_trainer(job["name"], job["out"], job["dataset"], results=job["work"], **job["attributes"])
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    started(trainer, seed=rank)
    batches = next_batches(trainer, 2)
    run_steps(trainer, batches[:1])
    past_every_switch_and_update(trainer)
    run_steps(trainer, batches)
    members = {m.name: weights_of(m.module) for m in trainer.members}
    torch.save({"student": weights_of(trainer.student.module), "members": members}, job["work"] / f"rank{rank}.pth")
    dist.barrier()


def train_whole_run(rank: int, job: dict) -> None:
    """A run of epochs as nnU-Net makes it, with worker processes, whose unlabeled pool is empty until the gate opens."""
    trainer = make_trainer(job["name"], job["out"], job["dataset"], results=job["work"], **job["attributes"])
    os.environ["nnUNet_n_proc_DA"] = "1"
    streams.SELDOM = job["seldom"]
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    torch.manual_seed(rank)
    trainer.run_training()
    found = {"student": weights_of(trainer.student.module), "curves": trainer.curves.values}
    found["places"] = None if trainer.places is None else trainer.places.state_dict()
    torch.save(found | {"iteration": trainer.iteration}, job["work"] / f"rank{rank}.pth")
    dist.barrier()


def run(rank: int, ranks: int, jobs: Path) -> None:
    stock.DDP = members.DistributedDataParallel = prediction.DistributedDataParallel = CpuDDP
    torch.set_num_threads(1)
    torch.cuda.device_count = lambda: ranks
    dist.init_process_group("gloo", init_method=f"file://{jobs.with_name('store')}", rank=rank, world_size=ranks)
    for job in torch.load(jobs, weights_only=False):
        if "reference" in job:
            train(rank, ranks, job)
        elif "whole" in job:
            train_whole_run(rank, job)
        else:
            train_from_the_start(rank, job)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, ranks, jobs = sys.argv[1:]
    run(int(rank), int(ranks), Path(jobs))
