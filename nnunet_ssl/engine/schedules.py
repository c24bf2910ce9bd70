"""Learning rates of the optimizers that a method makes itself."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class PolySchedule:
    """nnU-Net's schedule for an optimizer with any rates: each group's own rate times `(1 - epoch / epochs)^0.9`.

    Args:
        epochs: of the whole training.
    """

    def __init__(self, optimizer: Optimizer, epochs: int):
        self._optimizer = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._epochs = epochs

    def step(self, epoch: int) -> None:
        """Set the rates of `epoch`, counted from 0. To be called when it starts."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * (1 - epoch / self._epochs) ** 0.9


class OwnSchedule:
    """A schedule that a method gives with its optimizer.

    Args:
        scheduler: of PyTorch, stepped after every epoch; None: the rates stay.
    """

    def __init__(self, scheduler: LRScheduler | None):
        self._scheduler = scheduler

    def step(self) -> None:
        if self._scheduler is not None:
            self._scheduler.step()

    def state_dict(self) -> dict:
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state)


def with_schedule(
    made: Optimizer | tuple[Optimizer, LRScheduler | None], epochs: int
) -> tuple[Optimizer, PolySchedule | OwnSchedule]:
    """The optimizer and its schedule, of what a method's optimizer function returned: an optimizer, or both.

    Args:
        epochs: of the whole training.

    Raises:
        TypeError: it returned something else.
        ValueError: the schedule is one of another optimizer, whose rates it would move.
    """
    if isinstance(made, Optimizer):
        return made, PolySchedule(made, epochs)
    optimizer, scheduler = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "the function of `optimizer=` must return an optimizer of PyTorch, or (optimizer, schedule), got "
            f"{type(optimizer).__name__}"
        )
    if scheduler is not None:
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(
                "the schedule must be None or one of torch.optim.lr_scheduler that steps without a metric, got "
                f"{type(scheduler).__name__}"
            )
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"the schedule {type(scheduler).__name__} was made for another optimizer")
    return optimizer, OwnSchedule(scheduler)
