"""Cases in background processes, and what is left of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.errors import UserError


def children_end(seconds: float = 20) -> bool:
    begin = time.monotonic()
    while multiprocessing.active_children() and time.monotonic() - begin < seconds:
        time.sleep(0.05)
    return not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once(processes):
    found = dict(run_in_processes(pow, [(n, 2) for n in range(7)], processes, "Squares", show_progress=False))
    assert found == {n: n**2 for n in range(7)} and children_end()


def test_an_error_in_a_job_is_raised_and_no_process_stays():
    with pytest.raises(ZeroDivisionError):
        list(run_in_processes(divmod, [(1, 0), (1, 1), (2, 1)], 2, "Dividing", show_progress=False))
    assert children_end()


def test_an_iteration_that_is_left_ends_its_processes():
    results = run_in_processes(time.sleep, [(0.0,), (600.0,), (600.0,)], 2, "Sleeping", show_progress=False)
    next(results)
    results.close()
    assert children_end()


def test_workers_that_are_ended_while_they_wait_for_a_job_do_not_make_their_parent_wait():
    """An idle worker holds the lock of the queue of jobs; whoever asks for it after the worker's end waits for ever."""
    results = run_in_processes(time.sleep, [(0.0,), (600.0,)], 2, "Sleeping", kept="nothing", show_progress=False)
    next(results)  # one worker is idle now
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGTERM)
    with pytest.raises(UserError, match="a background process died with 1 cases unfinished"):
        next(results)
    assert children_end()
