"""Two gloo processes on CPU train one step; run by tests/engine/test_engine.py.

nnU-Net forces the CUDA device and `device_ids` under DDP, so this process replaces the DDP class by one that ignores them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.dataloading.streams import unlabeled_batch_size_here


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

    return {k: part(v) for k, v in batch.items()}


def run(rank: int, ranks: int, name: str, out: Path, dataset: str, results: Path, work: Path) -> None:
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as stock

    from nnunet_ssl.engine import members, prediction
    from tests.helpers.training import make_trainer, weights_of

    stock.DDP = members.DistributedDataParallel = prediction.DistributedDataParallel = CpuDDP
    torch.set_num_threads(1)
    torch.cuda.device_count = lambda: ranks
    dist.init_process_group("gloo", init_method=f"file://{work / 'store'}", rank=rank, world_size=ranks)
    reference = torch.load(work / "reference.pth", weights_only=False)
    trainer = make_trainer(name, out, dataset, results=results, **reference["attributes"])
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    torch.manual_seed(0)
    trainer.initialize()
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
            "batch_size": (trainer.batch_size, unlabeled_batch_size_here(trainer)),
        },
        work / f"rank{rank}.pth",
    )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, ranks, name, out, dataset, results, work = sys.argv[1:]
    run(int(rank), int(ranks), name, Path(out), dataset, Path(results), Path(work))
