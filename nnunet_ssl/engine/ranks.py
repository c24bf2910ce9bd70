"""What the processes of several GPUs must agree on."""

from __future__ import annotations

from torch import distributed as dist


def of_first_rank(number: int, is_ddp: bool) -> int:
    """`number` as the process of rank 0 has it: for what is drawn once for the whole training. Under DDP all processes call it."""
    drawn = [number]
    if is_ddp:
        dist.broadcast_object_list(drawn, src=0)
    return drawn[0]
