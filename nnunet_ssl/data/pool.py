"""Run a function over many cases in background processes, with a progress bar, and notice when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nnunet_ssl.data.progress import progress
from nnunet_ssl.errors import UserError


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
        UserError: a background process died.
    """
    with progress(len(jobs), description, show_progress) as bar:
        if num_processes <= 1 or len(jobs) <= 1:
            for index, job in enumerate(jobs):
                result = function(*job)
                bar.update()
                yield index, result
            return
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(min(num_processes, len(jobs)), context, _end_with_parent)
        try:
            pending = {executor.submit(function, *job): index for index, job in enumerate(jobs)}
            for future in as_completed(list(pending)):
                result = future.result()
                bar.update()
                yield pending.pop(future), result
        except BrokenProcessPool as error:
            raise UserError(
                f"{description}: a background process died with {len(pending)} cases unfinished, most likely because the "
                f"machine ran out of memory; {kept}. Run the command again with fewer processes than -np {num_processes}, "
                f"for example -np {max(1, num_processes // 2)}."
            ) from error
        finally:
            # what is unfinished now is not wanted any more; a signal may have come before the executor had begun, so that it
            # cannot be waited for
            for process in list((executor._processes or {}).values()):
                process.kill()
            executor.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A process whose parent was killed would finish its job for nobody: each watches its parent and leaves with it."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
