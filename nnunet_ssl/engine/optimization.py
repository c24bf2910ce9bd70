"""One optimizer step for any number of networks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from nnunet_ssl.engine.members import Member


def step_optimizers(members: Iterable[Member], optimizers: Iterable[torch.optim.Optimizer], scaler) -> bool:
    """Unscale and clip each member's gradients, then step every optimizer that has any.

    Args:
        members: what was trained; each with its largest gradient norm `clip` (None: no limit).
        optimizers: all of them, each once.
        scaler: `torch.amp.GradScaler` with mixed precision, else None.

    Returns:
        Whether the step was made, as far as that is known without waiting for a GPU: with a scaler always True (it leaves
        the step out by itself if a gradient is not finite), without one False if any gradient is not finite.
    """
    active = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    if scaler is not None:
        for optimizer in active:
            scaler.unscale_(optimizer)
    norms = []
    for member in members:
        parameters = [p for p in member.parameters() if p.grad is not None]
        if parameters:
            norms.append(nn.utils.clip_grad_norm_(parameters, math.inf if member.clip is None else member.clip))
    if scaler is not None:
        for optimizer in active:
            scaler.step(optimizer)
        scaler.update()
        return True
    # The gradient norm, not the loss: under DDP gradients are equal on all ranks, so all of them skip together.
    if not all(bool(torch.isfinite(norm)) for norm in norms):
        return False
    for optimizer in active:
        optimizer.step()
    return True
