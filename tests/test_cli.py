"""What the console command says and returns when something goes wrong."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunet_ssl import cli
from nnunet_ssl.data.model_files import read_properties
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.errors import UserError


@pytest.fixture
def failing(monkeypatch):
    """`nnunet_ssl trainers` that raises what it is given."""
    module = cli.load("trainers")

    def use(error):
        def run(args):
            if isinstance(error, BaseException):
                raise error
            return error()

        monkeypatch.setattr(module, "run", run)

    return use


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the key 'x' is missing. Add it."), "the key 'x' is missing. Add it."),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/a.nii.gz"),
            "/data/a.nii.gz: Permission denied.",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device."),
        (OSError("something of a library"), "damaged or of another kind (something of a library)"),
        (MemoryError(), "not enough memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not in UTF-8"),
        (pickle.UnpicklingError("invalid load key"), "damaged or of another kind (invalid load key)"),
        (EOFError("Ran out of input"), "damaged or of another kind"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_system_is_one_sentence(failing, capsys, error, said):
    failing(error)
    assert cli.main(["trainers"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("\nnnunet_ssl trainers: ") and said in err and "Traceback" not in err
    with pytest.raises(type(error)):
        cli.main(["trainers", "--debug"])


def test_a_fault_of_the_package_keeps_its_traceback(failing):
    failing(KeyError("x"))
    with pytest.raises(KeyError):
        cli.main(["trainers"])


def test_an_error_within_nnunet_is_one_sentence_with_its_own_reason(failing, capsys, tmp_path):
    failing(lambda: verify_dataset_integrity(str(tmp_path)))
    assert cli.main(["trainers"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "\nnnunet_ssl trainers: nnU-Net stopped in nnunetv2.experiment_planning.verify_dataset_integrity."
    )
    assert (
        "AssertionError: There needs to be a dataset.json" in err
        and str(tmp_path) in err
        and len(err.splitlines()) == 2
    )
    with pytest.raises(AssertionError, match=r"dataset\.json"):
        cli.main(["trainers", "--debug"])


def function_of(module: str, body: str, **names):
    """A function `f` of a module by this name, with its source."""
    space = {"__name__": module, **names}
    exec(body, space)
    return space["f"]


def test_whose_error_it_is_is_told_by_where_it_arose(failing, capsys):
    ours = function_of("nnunet_ssl.data.x", "def f(): raise ValueError('ours')")
    failing(function_of("nnunetv2.y", "def f(): return g()", g=ours))
    with pytest.raises(ValueError, match="ours"):
        cli.main(["trainers"])
    library = function_of("numpy.z", "def f(): raise ValueError('two\\nlines')")
    theirs = function_of("nnunetv2.y", "def f(): return g()", g=library)
    failing(function_of("nnunet_ssl.data.x", "def f(): return g()", g=theirs))
    assert cli.main(["trainers"]) == 1
    assert "nnU-Net stopped in nnunetv2.y.f: ValueError: two lines. Put" in capsys.readouterr().err


def test_an_error_of_nnunet_in_a_worker_process_is_nnunets(failing, capsys, tmp_path):
    jobs = [(str(tmp_path),)] * 2
    failing(lambda: list(run_in_processes(verify_dataset_integrity, jobs, 2, "Checking", show_progress=False)))
    assert cli.main(["trainers"]) == 1
    err = capsys.readouterr().err
    where = "nnunetv2.experiment_planning.verify_dataset_integrity.verify_dataset_integrity"
    assert f"nnU-Net stopped in {where}: AssertionError: There needs to be" in err
    failing(lambda: list(run_in_processes(read_properties, [(1,)] * 2, 2, "Checking", show_progress=False)))
    with pytest.raises(AttributeError):
        cli.main(["trainers"])


POOL_IN_A_GROUP = """
import multiprocessing, os, signal, sys, threading, time, types
from nnunet_ssl import cli

def run(args):
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # as nnU-Net predicts
        pool.map(abs, [1])
        threading.Timer(0.5, os.killpg, (os.getpgid(0), signal.SIGTERM)).start()
        time.sleep(60)

if __name__ == "__main__":
    cli.GRACE = 2.0
    module = cli.load("trainers")
    cli.load = lambda name: types.SimpleNamespace(**{**vars(module), "run": run})
    sys.exit(cli.main(["trainers"]))
"""


def test_sigterm_for_the_whole_group_ends_a_command_whose_pool_cannot_end(tmp_path):
    script = tmp_path / "in_a_group.py"
    script.write_text(POOL_IN_A_GROUP)
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted." in said.decode() and "Traceback" not in said.decode()


def test_ctrl_c_and_sigterm_are_one_line_and_their_number(failing, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process begun in the background of a script ignores it
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        cleaned = []

        def work(number=number, cleaned=cleaned):
            try:
                os.kill(os.getpid(), number)
            finally:
                cleaned.append(True)

        failing(work)
        assert cli.main(["trainers"]) == 128 + number and cleaned
        assert capsys.readouterr().err == "\nnnunet_ssl trainers: interrupted.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_is_ended_at_once_does_not_lose_the_signal(failing):
    ends = []

    def work():
        for _ in range(100):  # nnU-Net's pools do so little that they are terminated while their workers start
            child = os.fork()
            if child == 0:
                try:
                    time.sleep(3)
                finally:
                    os._exit(0)
            os.kill(child, signal.SIGTERM)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    failing(work)
    assert cli.main(["trainers"]) == 0
    assert set(ends) == {-signal.SIGTERM}


def test_a_worker_dies_of_sigterm_wherever_it_hangs(failing):
    def work():
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, b"ready")
                time.sleep(60)
            finally:
                os._exit(0)
        os.read(reading, 5)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

    failing(work)
    assert cli.main(["trainers"]) == 0
