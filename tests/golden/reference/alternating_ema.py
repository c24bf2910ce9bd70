"""AD-MT as released: the decay of its teachers (ours counts their own updates), the sharpening of their mean (ours has none)."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.engine.ema import ema_decay_at


def decay_of_iteration(iteration: int, copies: float, decay: float) -> float:
    """0 for the first `copies` updates, then `ema_decay_at`, where an update is counted every second iteration."""
    update = iteration // 2
    return 0.0 if update < copies else ema_decay_at(int(update - copies), decay)


def sharpened_mean(p: Tensor, temperature: float) -> Tensor:
    """`p^(1/T) / sum_c p_c^(1/T)` of probabilities `(B, C, *spatial)`."""
    powers = p ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)
