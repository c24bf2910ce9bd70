"""One process at a time writes to an output. The second one waits and says for whom, or refuses.

The lock is the operating system's (`filelock`): it is gone with the process that has it, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ssl.data.atomic import remove_abandoned
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.owners import is_gone
from nnunet_ssl.errors import UserError


class OutputLock:
    """The right to write to `output`, a file or folder that need not be there.

    Two hidden files lie beside it while it is held: the lock, and who has it. Locks of one process do not exclude each other. What
    killed processes have left of their locks here, and of temporary files in `output`, goes with the next lock.
    """

    def __init__(self, output: Path):
        self.output = output.absolute()
        beside = self.output.parent
        self._lock = FileLock(beside / f".{self.output.name}.lock", is_singleton=True)
        self._holder = beside / f".{self.output.name}.lock.json"
        self._made: list[Path] = []

    def acquire(self, wait: bool) -> None:
        """Take the lock.

        Args:
            wait: for another process that has it, which is said.

        Raises:
            UserError: another process has it, and `wait` is false.
        """
        self._made = [folder for folder in self.output.parents if not folder.exists()]
        self.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise UserError(
                    f"{self.output} is in use by {self.holder()}. Wait for it, or stop it, and run this again."
                ) from None
            print(f"Waiting for {self.holder()}, which writes to {self.output}.", flush=True)
            self._lock.acquire()
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds")}
        try:
            _remove_abandoned_locks(self.output.parent)
            remove_abandoned(self.output)
            self._holder.write_text(json.dumps(about), encoding="utf-8")
        except OSError:  # a full disk
            self.release()
            raise

    def release(self) -> None:
        if self._lock.lock_counter == 1:
            # before the lock is given up: a process that waits notices that its file is gone, and makes another
            self._holder.unlink(missing_ok=True)
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()
        with contextlib.suppress(OSError):  # folders made for the lock, in which nothing was written
            for folder in self._made:
                folder.rmdir()

    def holder(self) -> str:
        """Who has it, for people."""
        try:
            about = read_json(self._holder)
            return f"process {about['pid']} on {about['host']}, since {about['since']}"
        except (UserError, KeyError):  # it is just being taken or given up
            return "another process"


def _remove_abandoned_locks(folder: Path) -> None:
    """The files of locks whose processes were killed, of other outputs beside the one that is locked now."""
    for file in folder.glob(".*.lock.json"):
        try:
            about = read_json(file)
            gone = about["host"] == socket.gethostname() and is_gone(int(about["pid"]))
        except (UserError, KeyError, TypeError, ValueError):
            continue
        if gone:
            lock = FileLock(file.with_suffix(""), is_singleton=True)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                if lock.lock_counter == 1:
                    file.unlink(missing_ok=True)
                    Path(lock.lock_file).unlink(missing_ok=True)


@contextlib.contextmanager
def only_writer(*outputs: Path) -> Iterator[None]:
    """Hold the locks of these outputs, waiting for each."""
    with contextlib.ExitStack() as stack:
        for output in sorted(outputs):  # the same order everywhere, so that two processes never wait for each other
            lock = OutputLock(output)
            lock.acquire(wait=True)
            stack.callback(lock.release)
        yield
