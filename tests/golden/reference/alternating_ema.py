"""The decay of AD-MT's teachers as released; our trainer's counts a teacher's own updates."""

from __future__ import annotations

from nnunet_ssl.engine.ema import ema_decay_at


def decay_of_iteration(iteration: int, copies: float, decay: float) -> float:
    """0 for the first `copies` updates, then `ema_decay_at`, where an update is counted every second iteration."""
    update = iteration // 2
    return 0.0 if update < copies else ema_decay_at(int(update - copies), decay)
