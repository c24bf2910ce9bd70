"""Exponential moving average of a network's weights: the teacher of Mean Teacher and of the methods built on it.

    theta'_t = a_t theta'_{t-1} + (1 - a_t) theta_t,    a_t = min(1 - 1/(t+1), decay),    t = 0, 1, ...

theta: student, theta': teacher. Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, section 2;
the warm-up of the decay is that of their code and of HiLab-git/SSL4MIS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.errors import some

_Place = tuple[dict, str]  # the dictionary of a module that holds a tensor, and its key there


def ema_decay_at(step: int, decay: float) -> float:
    """`min(1 - 1/(step + 1), decay)`: the decay of the update number `step`, counted from 0.

    The first update (decay 0) copies the student; until the limit `decay` is reached the teacher is the plain mean of
    all students so far.
    """
    return min(1.0 - 1.0 / (step + 1), decay)


@torch.no_grad()
def ema_update_tensors(teacher: Sequence[Tensor], student: Sequence[Tensor], decay: float) -> None:
    """`teacher[i] <- decay * teacher[i] + (1 - decay) * student[i]`, in place, without a gradient.

    Written as a step towards the student, so that decay 0 copies it exactly, decay 1 changes nothing, and a teacher
    equal to its student stays equal. One fused call per device and type. Tensors that are not floating point are
    copied.

    Raises:
        ValueError: `decay` is outside [0, 1], or the tensors do not correspond.
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"the EMA decay must be in [0, 1], got {decay}")
    if len(teacher) != len(student):
        raise ValueError(f"the teacher has {len(teacher)} tensors, the student {len(student)}")
    groups: dict[tuple, tuple[list[Tensor], list[Tensor]]] = {}
    for i, (t, s) in enumerate(zip(teacher, student)):
        if (t.shape, t.dtype, t.device) != (s.shape, s.dtype, s.device):
            raise ValueError(
                f"tensor {i} is {tuple(t.shape)} {t.dtype} on {t.device} in the teacher, "
                f"{tuple(s.shape)} {s.dtype} on {s.device} in the student"
            )
        of_teacher, of_student = groups.setdefault((t.device, t.dtype), ([], []))
        of_teacher.append(t)
        of_student.append(s)
    for (_, dtype), (of_teacher, of_student) in groups.items():
        if dtype.is_floating_point or dtype.is_complex:
            torch._foreach_lerp_(of_teacher, of_student, 1.0 - decay)
        else:
            for t, s in zip(of_teacher, of_student):
                t.copy_(s)


def _places(module: nn.Module) -> tuple[dict[str, _Place], dict[str, _Place]]:
    """Where each parameter and each buffer of a network is found, by its name; one that several modules share is named once."""
    parameters: dict[str, _Place] = {}
    buffers: dict[str, _Place] = {}
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for of_part, places in ((part._parameters, parameters), (part._buffers, buffers)):
            for name, tensor in of_part.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    places[f"{prefix}.{name}" if prefix else name] = (of_part, name)
    return parameters, buffers


def _paired(kind: str, teacher: Mapping[str, _Place], student: Mapping[str, _Place]) -> list[tuple[_Place, _Place]]:
    """The places in both networks, in one order; ValueError naming those that are not in both or differ in shape."""

    def shape(places: Mapping[str, _Place], name: str) -> tuple[int, ...] | None:
        if name not in places:
            return None
        tensors, key = places[name]
        return tuple(tensors[key].shape)

    names = dict.fromkeys([*teacher, *student])
    differing = [name for name in names if shape(teacher, name) is None or shape(teacher, name) != shape(student, name)]
    if differing:
        shown = [
            f"{name} (teacher: {shape(teacher, name)}, student: {shape(student, name)})".replace("None", "none")
            for name in differing
        ]
        raise ValueError(f"teacher and student must have the same {kind}; they differ in {some(shown, 5)}")
    return [(teacher[name], student[name]) for name in teacher]


class PairedTensors:
    """The tensors of a teacher and of its student, found once: walking through a network takes longer than its update.

    Kept are the places, not the tensors, so a module that gets another tensor (a buffer that is assigned) is followed.

    Raises:
        ValueError: the two networks differ in names or shapes of parameters or buffers; the message names them.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module):
        self._teacher, self._student = teacher, student
        (parameters, buffers), (of_student, buffers_of_student) = _places(teacher), _places(student)
        self._parameters = _paired("parameters", parameters, of_student)
        self._buffers = _paired("buffers", buffers, buffers_of_student)

    def are_of(self, teacher: nn.Module, student: nn.Module) -> bool:
        """Whether they were found in these two modules."""
        return teacher is self._teacher and student is self._student

    @property
    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of the teacher, and of the student."""
        return self._now(self._parameters)

    @property
    def buffers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of the teacher, and of the student."""
        return self._now(self._buffers)

    @staticmethod
    def _now(pairs: list[tuple[_Place, _Place]]) -> tuple[list[Tensor], list[Tensor]]:
        return [tensors[key] for (tensors, key), _ in pairs], [tensors[key] for _, (tensors, key) in pairs]


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, pairs: PairedTensors | None = None) -> None:
    """One update of the teacher's parameters towards the student's, in place: `ema_update_tensors` on all parameters.

    Buffers are copied from the student. (SSL4MIS leaves them alone, because its teacher runs in train mode and so has
    batch statistics of its own; nnU-Net's networks have instance normalization and no buffers.) `requires_grad` is
    not touched.

    Args:
        teacher: changed in place. Same architecture as the student, neither compiled nor wrapped.
        student: unchanged.
        decay: a_t, see `ema_decay_at`.
        pairs: their tensors, for one who keeps them; None: they are looked for.

    Raises:
        ValueError: the two networks differ in names or shapes of parameters or buffers; the message names them.
    """
    pairs = PairedTensors(teacher, student) if pairs is None else pairs
    ema_update_tensors(*pairs.parameters, decay)
    for buffer, source in zip(*pairs.buffers):
        buffer.copy_(source)


def decay_of_run(steps: int, horizons: int = 100, shortest: int = 20, longest: int = 1000) -> float:
    """`1 - 1/H` with a horizon of H = steps / horizons, but at least `shortest` and at most `longest` steps.

    An average over a fixed number of steps lags behind in a short run and is noisy in a long one.

    Args:
        steps: of the whole training.
    """
    return 1.0 - 1.0 / min(max(steps / horizons, shortest), longest)
