"""nnU-Net's checkpoints with everything that a method has besides: written atomically, restored completely."""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn

from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.engine.configurable import declared_hyperparameters
from nnunet_ssl.engine.members import LikeDDP
from nnunet_ssl.errors import UserError, some

STATE_KEY = "ssl_state"
STATE_FORMAT = 1


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


def random_states_of_all_ranks(is_ddp: bool) -> list[dict]:
    """Must be called by every process."""
    if not is_ddp:
        return [random_states()]
    states: list = [None] * dist.get_world_size()
    dist.all_gather_object(states, random_states())
    return states


class _WithoutState:
    """In the place of an optimizer whose state is written elsewhere."""

    def state_dict(self) -> dict:
        return {}


@contextlib.contextmanager
def _without_tensors(trainer) -> Iterator[None]:
    """Within this context the trainer has a network and an optimizer without state."""
    network, optimizer = trainer.network, trainer.optimizer
    trainer.network = LikeDDP(nn.Module()) if trainer.is_ddp else nn.Module()
    trainer.optimizer = _WithoutState()
    try:
        yield
    finally:
        trainer.network, trainer.optimizer = network, optimizer


def write_checkpoint(
    trainer, filename: str | os.PathLike, nnunets: Callable[[Any], None], ssl_state: dict[str, Any]
) -> None:
    """Write nnU-Net's checkpoint of the inference network with `ssl_state`; an existing file stays until it is complete.

    nnU-Net assembles its dictionary and writes it in one function. That function runs once without weights, into memory, which
    costs nothing; so whatever else nnU-Net keeps is in the file, in this version and in the next, and the file is written once.

    Args:
        nnunets: nnU-Net's own `save_checkpoint` of this trainer; takes a file name or a file.
    """
    memory = io.BytesIO()
    with _without_tensors(trainer):
        nnunets(memory)
    memory.seek(0)
    checkpoint = torch.load(memory, map_location="cpu", weights_only=False)
    # the live tensors: a teacher that is also the inference network is then stored once
    checkpoint["network_weights"] = trainer.inference_network().module.state_dict()
    checkpoint["optimizer_state"] = trainer.optimizer.state_dict()
    checkpoint[STATE_KEY] = ssl_state
    write_atomically(filename, lambda temporary: torch.save(checkpoint, temporary))


def state_of(trainer, randomness: list[dict]) -> dict[str, Any]:
    """What a trainer keeps under `ssl_state`; `randomness` by `random_states_of_all_ranks`."""
    return {
        "format": STATE_FORMAT,
        "student": trainer.student.module.state_dict(),
        **trainer.members.state(),
        "iteration": trainer.iteration,
        "total_steps": trainer.total_steps,
        "nonfinite_steps": trainer.nonfinite.skipped,
        "unlabeled_pool": trainer._pool,
        "places": None if trainer.places is None else trainer.places.state_dict(),
        "curves": trainer.curves.values,
        "random_states": randomness,
        "seed": trainer.seed,
        "split": None if trainer.cases is None else trainer.cases.record(),
        "hyperparameters": _hyperparameters(trainer),
    }


def reason_against(trainer, checkpoint: dict[str, Any], source: str) -> UserError | None:
    """Why a trainer cannot continue a loaded checkpoint: it was not written by this kind of trainer with these settings.

    Args:
        source: where it comes from, for the message.
    """
    state, name, writer = checkpoint.get(STATE_KEY), type(trainer).__name__, checkpoint.get("trainer_name")
    why = f"It was written by {writer}"
    if state is None or state["format"] != STATE_FORMAT:
        found = (
            "no state of nnunet-ssl" if state is None else f"a state of format {state['format']}, not {STATE_FORMAT}"
        )
    else:
        theirs = _parts(state)
        ours = _parts({"student": trainer.student.module.state_dict(), **trainer.members.state()})
        if not (differing := sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))):
            return None
        found = f"other parts than {name} needs ({some(differing)})"
        if writer == name:
            changed = changed_settings(trainer, checkpoint)
            settings = f" with other settings ({some(changed)}): set them as they were to continue it"
            why += settings if changed else " with other plans, or by another version"
    return UserError(
        f"{source} has {found}. {why}. `--val` validates it, `-pretrained_weights {source}` starts from its weights."
    )


def _parts(state: dict[str, Any]) -> dict[str, dict]:
    """Names of what is restored; of networks also the shapes of their tensors."""
    networks = {"network": state["student"], **state["members"]}
    others = [f"{key} of {name}" for key in ("optimizers", "schedules") for name in state.get(key, {})]
    shapes = {
        name: {key: getattr(value, "shape", None) for key, value in network.items()}
        for name, network in networks.items()
    }
    return shapes | {name: {} for name in (*others, *state.get("states", {}))}


def changed_settings(trainer, checkpoint: dict[str, Any]) -> list[str]:
    """Class attributes of the trainer that had other values, or did not exist, when a checkpoint of ours was written."""
    before, now = checkpoint[STATE_KEY].get("hyperparameters", {}), _hyperparameters(trainer)
    changed = [f"{k} = {before[k]} (now {v})" for k, v in now.items() if k in before and before[k] != v]
    return changed + [f"without {k} (now {v})" for k, v in now.items() if before and k not in before]


def _hyperparameters(trainer) -> dict[str, str]:
    return {k: repr(v) for k, v in declared_hyperparameters(type(trainer)).items()}


def restore(trainer, checkpoint: dict[str, Any]) -> None:
    """Give a trainer the `ssl_state` of a loaded checkpoint of its kind."""
    state = checkpoint[STATE_KEY]
    trainer.student.module.load_state_dict(state["student"])
    trainer.members.load_state(state)
    trainer.iteration = state["iteration"]
    _continue_at_another_length(
        trainer, state.get("total_steps", trainer.total_steps)
    )  # earlier versions do not say it
    trainer.nonfinite.skipped = state["nonfinite_steps"]
    trainer._pool = state["unlabeled_pool"]
    trainer._places_before = state.get("places")  # earlier versions have none
    if state["split"] is not None:
        trainer._began_with = state["split"]
    trainer.curves.values = state["curves"]
    if trainer.local_rank < len(state["random_states"]):
        restore_random_states(state["random_states"][trainer.local_rank])


def _continue_at_another_length(trainer, before: int) -> None:
    """Where epochs or their iterations are others than before: the epoch stays, and what has begun goes on.

    Args:
        before: steps of the whole run when the checkpoint was written.
    """
    if before == trainer.total_steps:
        return
    done = min(1.0, trainer.iteration / before)
    trainer.iteration = trainer.current_epoch * trainer.num_iterations_per_epoch
    if trainer.gate is not None:
        trainer.gate.rescale(done)
    trainer.print_to_log_file(
        f"Note: the run was begun with {before} steps and has {trainer.total_steps} now. {done:.0%} of it were done, "
        f"{trainer.progress:.0%} are now, where the schedules of the method go on."
    )
