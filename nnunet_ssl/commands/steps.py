"""Running commands one after another: each as a process of its own, with its output in a log, continued where it stopped.

Used by `nnunet_ssl demo` and `benchmarks/study.py`, which do with the public commands what a user would type.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.errors import UserError

_EPOCH = re.compile(r": Epoch (\d+)\s*$", re.MULTILINE)
_LOG_TAIL = 8  # lines of a log that an error shows


@dataclass(frozen=True)
class Step:
    """One step; `action` is a command as a list of words, or a function that needs no process of its own."""

    name: str  # names the log
    what: str  # for the progress bar
    action: Sequence[str] | Callable[[], None]
    clean: tuple[Path, ...] = ()  # what an interrupted run of this step left behind and must go first
    together: str = ""  # steps that follow one another with the same word here are commands that may run side by side


class Stopped(Exception):
    """A command is ended because the block of `threads_of_commands` is left."""


def child_environment(work: Path, num_processes: int) -> dict[str, str]:
    """Environment of the commands: nnU-Net's folders below `work`, and few processes and threads.

    nnU-Net sets the threads of its main process itself; without the limit every background worker takes all cores too.
    """
    from nnunet_ssl.discovery import SCANNED_FOLDER

    environment = dict(os.environ)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        environment[name] = str(work / name)
    folders = [folder for folder in environment.get("nnUNet_extTrainer", "").split(os.pathsep) if folder]
    if str(SCANNED_FOLDER) not in folders:
        environment["nnUNet_extTrainer"] = os.pathsep.join([*folders, str(SCANNED_FOLDER)])
    defaults = {
        "nnUNet_n_proc_DA": str(num_processes),
        "nnUNet_def_n_proc": str(num_processes),
        "nnUNet_compile": "f",  # would take longer than a short training
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads leave their core to the background workers
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **environment}


def find_command(name: str) -> str:
    """Path of a console command: beside the running Python, else on the PATH. UserError if there is none."""
    folder = str(Path(sys.executable).absolute().parent)
    found = shutil.which(name, path=folder) or shutil.which(name)
    if found is None:
        raise UserError(
            f"The command {name} is neither in {folder} nor on the PATH. Install nnunetv2 and nnunet-ssl in the Python "
            f"that runs this ({sys.executable}): pip install nnunet-ssl"
        )
    return found


def run_steps(
    work: Path,
    steps: Sequence[Step],
    seconds: dict[str, float],
    save: Callable[[], None],
    environment: Mapping[str, str],
    at_once: int = 1,
) -> None:
    """Run what is not done yet, showing the commands.

    Args:
        work: logs go to `work/logs`.
        seconds: name of a finished step -> its duration; steps named here are left out, and each is added when it is done.
        save: called after each step, to keep `seconds`.
        at_once: how many of the steps that may run side by side do so. The first that fails ends the others.
    """
    from tqdm import tqdm

    def run_one(number: int, step: Step, check: Callable[[], None] = lambda: None) -> float:
        def report(epoch: int | None) -> None:
            check()
            running.show(step, epoch)

        for leftover in step.clean:
            shutil.rmtree(leftover, ignore_errors=True)
        typed = "" if callable(step.action) else f"\n$ {shlex.join(step.action)}"
        tqdm.write(f"\n[{number}/{len(steps)}] {step.what}{typed}")
        running.show(step, None)
        start = time.monotonic()
        if callable(step.action):
            step.action()
        else:
            run_command(step.action, work / "logs" / f"{number:02d}_{step.name}.txt", environment, report)
        return round(time.monotonic() - start, 1)

    def finish(step: Step, duration: float) -> None:
        seconds[step.name] = duration
        save()
        running.end(step)

    with tqdm(
        total=len(steps), unit="step", bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    ) as bar:
        running = _Running(bar)
        for _, group in itertools.groupby(enumerate(steps, 1), lambda pair: pair[1].together or pair[0]):
            todo = []
            for number, step in group:
                if step.name in seconds:
                    tqdm.write(f"\n[{number}/{len(steps)}] {step.what}: done before")
                    running.end(step)
                else:
                    todo.append((number, step))
            if len(todo) < 2 or at_once == 1:
                for number, step in todo:
                    finish(step, run_one(number, step))
                continue
            with threads_of_commands(at_once) as (pool, check):
                futures = {pool.submit(run_one, number, step, check): step for number, step in todo}
                while futures:
                    for future in done_of(futures):
                        finish(futures.pop(future), future.result())


class _Running:
    """What a bar of `run_steps` shows: the steps that run, and their epochs."""

    def __init__(self, bar) -> None:
        self.bar = bar
        self.epochs: dict[str, int | None] = {}
        self.lock = threading.Lock()

    def show(self, step: Step, epoch: int | None) -> None:
        with self.lock:
            self.epochs[step.what] = epoch
            shown = dict(self.epochs)
            self.bar.set_description("; ".join(shown), refresh=False)
            texts = (
                f"epoch {n}" if len(shown) == 1 else f"{what}: epoch {n}" for what, n in shown.items() if n is not None
            )
            text = "; ".join(texts)
            # a terminal sees the time move, a file gets a line only when something has changed
            if sys.stderr.isatty() or text not in (self.bar.postfix or ""):
                self.bar.set_postfix_str(text)

    def end(self, step: Step) -> None:
        with self.lock:
            self.epochs.pop(step.what, None)
            self.bar.set_postfix_str("", refresh=False)
            self.bar.update()


@contextmanager
def threads_of_commands(number: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[], None]]]:
    """Threads whose commands end when the block is left, also by an error or a signal.

    Yields the pool, and a function that the argument `report` of `run_command` must call: it raises Stopped then.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    pool = ThreadPoolExecutor(number)
    try:
        yield pool, check
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def done_of(futures: Iterable[Future]) -> set[Future]:
    """Those that are done, after half a second at most: a signal that another thread takes wakes this one only then."""
    return wait_for(futures, timeout=0.5, return_when=FIRST_COMPLETED).done


def run_command(
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    report: Callable[[int | None], None] | None = None,
) -> None:
    """Run a console command with its output in `log`.

    Args:
        report: is told about twice a second which epoch a training is in (None: not in an epoch yet). What it raises ends
            the command and its workers.

    Raises:
        UserError: the command is not installed, or fails: names command, exit code and log, with the end of the log.
    """
    command = [find_command(words[0]), *words[1:]]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    epochs = _EPOCH.findall(log.read_text(encoding="utf-8", errors="replace"))
                    if report is not None:
                        report(int(epochs[-1]) if epochs else None)
        finally:
            _end(process)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL:])
        raise UserError(
            f"this command failed with exit code {process.returncode}:\n  {shlex.join(words)}\nIts output is in {log} "
            f"and ends with\n{tail}\nRun this again with the same arguments to continue from here."
        )


def _end(process: subprocess.Popen) -> None:
    """End a command that still runs, with its workers: they are a process group, which Ctrl-C does not reach."""
    if process.poll() is not None:
        return
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
