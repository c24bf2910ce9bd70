"""Steps that several golden files share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.ema import ema_decay_at, ema_update


def _network(parameters: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in parameters.items()})


def ema_sequence(
    teacher: dict[str, Tensor], student: dict[str, Tensor], steps: Sequence[int], decay: float
) -> dict[str, Tensor]:
    """A teacher that follows a student over `steps`.

    Args:
        teacher: parameter name -> value before the first update, `(*shape)`.
        student: parameter name -> values at the updates, `(len(steps), *shape)`.
        steps: number of each update, the t of the decay's warm-up.
        decay: limit of the decay.

    Returns:
        parameter name -> the teacher's value after each update, `(len(steps), *shape)`.
    """
    network = _network(teacher)
    after: dict[str, list[Tensor]] = {name: [] for name in teacher}
    for i, step in enumerate(steps):
        students = _network({name: values[i] for name, values in student.items()})
        ema_update(network, students, ema_decay_at(step, decay))
        for name, parameter in network.items():
            after[name].append(parameter.detach().clone())
    return {name: torch.stack(values) for name, values in after.items()}
