"""Writing checkpoints so that a crash leaves the old one, and keeping random number generators in them."""

from __future__ import annotations

import random

import numpy as np
import torch


def random_states() -> dict:
    """States of the random number generators of this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    }


def restore_random_states(states: dict) -> None:
    """Undo of `random_states`. CUDA states are restored only on a machine with as many devices as there were."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    cuda = states["cuda"]
    if cuda is not None and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])
