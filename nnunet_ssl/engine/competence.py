"""When a method may begin to trust its network: competence instead of a share of the run.

Published schedules begin after thousands of steps that see labels. The same share of a short run is over before the network knows a
class, and the same number of steps is never reached. Here the second stage begins when the network finds every class on labeled
patches. That alone is too early: a few labeled cases are soon known by heart. With 4 labeled atria the F1 was 0.77 after 250 of
3000 steps, but the Dice on others 0.72, and the network kept the errors of its labels; so not before 0.3 of the run (docs/studies).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch import distributed as dist

from nnunet_ssl.engine.class_counts import ClassCounts, is_competent
from nnunet_ssl.losses.region import split_ignored

EARLIEST, LATEST = 0.3, 0.4  # shares of the run
F1 = 0.7


class CompetenceGate:
    """Opens once, between epochs, when every class has a sufficient F1 on labeled patches; at the latest at `latest`.

    A method makes it in `build_method`, with `trainer.register_gate`; the engine lets it see every labeled batch, and look after
    every epoch. It is kept in checkpoints. A class that no labeled training case shows cannot be learned and has no say: what the
    network takes for it anywhere would keep the gate shut.

    Args:
        trainer: an `nnUNetTrainerSSL`.
        earliest, latest: shares of the run between which it opens; `latest` is at least `earliest`.
        f1: the smallest F1 of a class; 0: it opens at `earliest`, whatever is known.
        memory: share of the run after which a step's counts have 1/e of their weight.
    """

    def __init__(
        self, trainer, earliest: float = EARLIEST, latest: float = LATEST, f1: float = F1, memory: float = 0.02
    ):
        self._trainer, self.earliest, self.f1 = trainer, earliest, f1
        self.latest = max(earliest, latest) if f1 > 0 else earliest
        self.opened_at: float | None = None
        self._left_out = [False] * trainer.num_objects
        self.counts = ClassCounts(trainer.num_objects, memory * trainer.total_steps)
        trainer.register_module("competence", self.counts, optimizer=None)
        trainer.register_state("competence_gate", self)

    def leave_out(self, unseen: Mapping[str, bool]) -> None:
        """Do not judge classes that no labeled training case shows, of which the log tells.

        Args:
            unseen: name -> whether it is one of them, of all foreground classes (or regions) in the network's order.
        """
        self._left_out = list(unseen.values())
        if names := [name for name, is_unseen in unseen.items() if is_unseen]:
            self._trainer.print_to_log_file(
                f"Warning: no labeled training case shows {', '.join(names)}. Nothing can be learned of it, and the unlabeled "
                "images do not wait for it."
            )

    def count(self, logits: list[Tensor], target: Tensor | list[Tensor], annotated: Tensor | None = None) -> None:
        """Take in a batch: arguments of `supervised_loss`. `annotated`: bool `(L, K)`, the classes that count in each patch."""
        if self.since_opening is not None:
            return
        labels = self._trainer.label_manager
        highest = target[0] if isinstance(target, list) else target
        plain, mask = split_ignored(highest, labels.ignore_label, labels.has_regions)
        self.counts(logits[0].detach(), plain, mask, annotated, self._trainer.activation)

    def look(self) -> None:
        """Open if it is time, and say in the log what was found; on all processes alike."""
        progress = self._trainer.progress
        if self.opened_at is not None or progress >= self.latest:
            return
        counts = self.counts.counts.clone()
        if self._trainer.is_ddp:
            dist.all_reduce(counts)  # each process goes on with its share of them, and a checkpoint has all
            self.counts.counts.copy_(counts / dist.get_world_size())
        f1 = [math.nan if left_out else v for v, left_out in zip(self.counts.f1(counts), self._left_out, strict=True)]
        if progress >= self.earliest and is_competent(f1, self.f1):
            self.opened_at = progress
        found = ", ".join(f"{value:.2f}" for value in f1)
        stage = "labeled images only" if self.opened_at is None else "unlabeled images from now on"
        self._trainer.print_to_log_file(f"F1 on labeled patches by class: {found}; {stage}")

    @property
    def since_opening(self) -> float | None:
        """Share of the run that has passed since it opened; None while it is shut."""
        opened = self.latest if self.opened_at is None else self.opened_at
        return self._trainer.progress - opened if self._trainer.progress >= opened else None

    def rescale(self, done: float) -> None:
        """After a change of the run's length: a gate that was open stays open, since the same epoch.

        Args:
            done: the trainer's progress before the change.
        """
        opened = self.latest if self.opened_at is None else self.opened_at
        if 0 < opened <= done:
            self.opened_at = opened * self._trainer.progress / done

    def state_dict(self) -> dict:
        return {"opened_at": self.opened_at}

    def load_state_dict(self, state: dict) -> None:
        self.opened_at = state["opened_at"]
