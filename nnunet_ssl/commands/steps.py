"""Running commands one after another: each as a process of its own, with its output in a log, continued where it stopped.

Used by `nnunet_ssl demo` and `benchmarks/study.py`, which do with the public commands what a user would type.
"""

from __future__ import annotations

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
) -> None:
    """Run what is not done yet, showing the commands.

    Args:
        work: logs go to `work/logs`.
        seconds: name of a finished step -> its duration; steps named here are left out, and each is added when it is done.
        save: called after each step, to keep `seconds`.
    """
    from tqdm import tqdm

    with tqdm(
        total=len(steps), unit="step", bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    ) as bar:
        for number, step in enumerate(steps, 1):
            if step.name in seconds:
                tqdm.write(f"\n[{number}/{len(steps)}] {step.what}: done before")
                bar.update()
                continue
            for leftover in step.clean:
                shutil.rmtree(leftover, ignore_errors=True)
            tqdm.write(f"\n[{number}/{len(steps)}] {step.what}")
            bar.set_description(step.what)
            start = time.monotonic()
            if callable(step.action):
                step.action()
            else:
                tqdm.write(f"$ {shlex.join(step.action)}")
                log = work / "logs" / f"{number:02d}_{step.name}.txt"
                run_command(
                    step.action, log, environment, lambda epoch: _show(bar, "" if epoch is None else f"epoch {epoch}")
                )
            seconds[step.name] = round(time.monotonic() - start, 1)
            save()
            bar.set_postfix_str("")
            bar.update()


def _show(bar, text: str) -> None:
    """Show `text` in the bar. A terminal sees the time move, a file gets a line only when something has changed."""
    if sys.stderr.isatty() or text not in (bar.postfix or ""):
        bar.set_postfix_str(text)


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
