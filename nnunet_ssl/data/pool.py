"""Run a function over many cases in background processes, with a progress bar, and notice when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nnunet_ssl.data.progress import progress
from nnunet_ssl.errors import UserError

POLL_SECONDS = 0.1


def run_in_processes(
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    num_processes: int,
    description: str,
    show_progress: bool = True,
    kept: str = "what is finished is kept",
) -> Iterator[tuple[int, Any]]:
    """Yield `(index, function(*jobs[index]))` as the jobs finish, in any order.

    With one process or one job the work is done in this process. Otherwise by spawned processes, as nnU-Net does, which
    are terminated when the iteration ends, also by an exception, and which end by themselves when this process is killed.

    Args:
        kept: what the message about a dead process says of the work done so far.

    Raises:
        UserError: a background process died (a pool would replace it and wait for its result forever).
    """
    with progress(len(jobs), description, show_progress) as bar:
        if num_processes <= 1 or len(jobs) <= 1:
            for index, job in enumerate(jobs):
                result = function(*job)
                bar.update()
                yield index, result
            return
        with multiprocessing.get_context("spawn").Pool(min(num_processes, len(jobs)), _end_with_parent) as pool:
            workers = list(pool._pool)  # type: ignore[attr-defined]
            pending = {index: pool.apply_async(function, job) for index, job in enumerate(jobs)}
            while pending:
                alive = all(worker.is_alive() for worker in workers)
                ready = [index for index, result in pending.items() if result.ready()]
                for index in ready:
                    result = pending.pop(index).get()
                    bar.update()
                    yield index, result
                if not alive and pending:
                    raise UserError(
                        f"{description}: a background process died with {len(pending)} cases unfinished, most likely "
                        f"because the machine ran out of memory; {kept}. Run the command again with fewer processes than "
                        f"-np {num_processes}, for example -np {max(1, num_processes // 2)}."
                    )
                if pending and not ready:
                    time.sleep(POLL_SECONDS)


def _end_with_parent() -> None:
    """A process whose parent was killed would finish its job for nobody: each watches its parent and leaves with it."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
