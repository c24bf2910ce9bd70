"""How far a long job is: a bar in a terminal, in a log a line whenever another tenth is done."""

from __future__ import annotations

import sys
from time import monotonic

from tqdm import tqdm


class Tenths:
    """In place of a bar where standard error is a file: a bar would fill it with its thousand states."""

    def __init__(self, total: int, description: str):
        self.total, self.description = total, description
        self.done = self._tenth = 0
        self._start = monotonic()

    def update(self, number: int = 1) -> None:
        self.done += number
        tenth = 10 * self.done // self.total
        if tenth > self._tenth:
            self._tenth = tenth
            seconds = monotonic() - self._start
            print(
                f"{self.description}: {10 * tenth} % ({self.done} of {self.total}, {seconds:.0f} s)",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> Tenths:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def progress(total: int, description: str, show: bool = True) -> tqdm | Tenths:
    """A context manager with `update(number=1)`, for `total` cases."""
    shown = show and total > 0
    if shown and not sys.stderr.isatty():
        return Tenths(total, description)
    return tqdm(total=total, desc=description, disable=not shown)
