"""A moving average of a number, kept in checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist


class RunningMean(nn.Module):
    """`m <- decay m + (1 - decay) x` for each number, beginning with its first x; what is not finite leaves its number as it is.

    Register it with `register_module(name, RunningMean(...), optimizer=None)`.

    Args:
        shape: of the values.
        decay: in [0, 1).
        initial: the mean of a number that has had no value yet.
        all_ranks: x is the mean over all processes that have a value, so that they hold the same m; all of them call it.
    """

    def __init__(self, shape: tuple[int, ...], decay: float, initial: float = 0.0, all_ranks: bool = False):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.all_ranks = all_ranks
        self.register_buffer("mean", torch.full(shape, initial, dtype=torch.float32))
        self.register_buffer("updates", torch.zeros(shape, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, value: Tensor) -> Tensor:
        """Take `value` in and return the mean."""
        value = value.to(self.mean)
        if self.all_ranks:
            sums = torch.stack((torch.where(value.isfinite(), value, 0), value.isfinite().to(value)))
            dist.all_reduce(sums)
            value = sums[0] / sums[1]
        moved = torch.where(self.updates == 0, value, self.decay * self.mean + (1 - self.decay) * value)
        self.mean.copy_(torch.where(value.isfinite(), moved, self.mean))
        self.updates += value.isfinite()
        return self.mean.clone()
