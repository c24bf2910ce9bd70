"""The pool of unlabeled cases in memory that the worker processes share, so that a change of it needs no new workers.

Workers are forked before the first step. Later there are the threads of the compiler and of CUDA, which a fork does not survive, so
a pool that changes between epochs has to reach workers that run already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def distribution(probabilities: Sequence[float] | np.ndarray, cases: Sequence[str], kind: str) -> np.ndarray:
    """Probabilities of `cases` as float64.

    Args:
        kind: of the cases, named in the error.

    Raises:
        ValueError: they are no distribution over `cases`.
    """
    found = np.asarray(probabilities, dtype=np.float64)
    if found.shape != (len(cases),) or found.min() < 0 or abs(found.sum() - 1) > 1e-6:
        raise ValueError(
            f"the probabilities of {len(cases)} {kind} cases must be as many numbers >= 0 with the sum 1, got {found.tolist()}"
        )
    return found


class UnlabeledPool:
    """Which of `cases` unlabeled patches are drawn from, and how often each.

    The trainer writes with `set`, workers read with `read`. There are two rows: the trainer fills the one that nobody reads and
    then raises the version, so that a worker never sees half of a change.

    Args:
        cases: all unlabeled cases of the fold. The pool is empty at first.
    """

    def __init__(self, cases: Sequence[str]):
        self.cases = tuple(sorted(cases))
        # of each row: a probability for every case (0: not in the pool), then 1 if all in the pool are drawn equally often
        self._rows = torch.zeros(2, len(self.cases) + 1, dtype=torch.float64).share_memory_()
        self._rows[:, -1] = 1
        self._version = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def version(self) -> int:
        """How often the pool was set."""
        return int(self._version[0])

    def set(self, cases: Sequence[str], probabilities: np.ndarray | None = None) -> None:
        """Make `cases` the pool.

        Args:
            cases: each a case of this pool's `cases`.
            probabilities: with which each of `cases` is drawn; None: all equally often.

        Raises:
            ValueError: a case that is not there, or probabilities that are no distribution over `cases`.
        """
        unknown = sorted(set(cases) - set(self.cases))
        if unknown:
            raise ValueError(f"not among the unlabeled cases: {', '.join(unknown)}")
        if probabilities is not None:
            probabilities = distribution(probabilities, cases, "unlabeled")
        shares = dict(zip(cases, np.ones(len(cases)) if probabilities is None else probabilities, strict=True))
        following = self.version + 1
        row = [shares.get(case, 0.0) for case in self.cases]
        self._rows[following % 2] = torch.tensor([*row, float(probabilities is None)], dtype=torch.float64)
        self._version[0] = following

    def read(self) -> tuple[int, list[str], np.ndarray | None]:
        """The version, the cases of the pool in order of their names, and their probabilities (None: equal)."""
        while True:
            version = self.version
            row = self._rows[version % 2].clone().numpy()
            if self.version == version:
                break
        drawn = row[:-1] > 0
        cases = [case for case, is_drawn in zip(self.cases, drawn) if is_drawn]
        return version, cases, None if row[-1] else row[:-1][drawn] / row[:-1].sum()
