"""data/locks.py: one writer at a time, over processes, and nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ssl.data.locks import OutputLock, only_writer
from nnunet_ssl.errors import UserError

HOLD = "import sys, time; from pathlib import Path; from nnunet_ssl.data.locks import only_writer\n"
HOLD += "with only_writer(Path(sys.argv[1])): print('has it', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path/out."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_leaves_nothing_and_one_process_may_take_it_twice(tmp_path):
    with only_writer(tmp_path / "out"), only_writer(tmp_path / "out", tmp_path / "new" / "folder"):
        assert (tmp_path / ".out.lock").exists() and "since" in OutputLock(tmp_path / "out").holder()
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_named_and_its_lock_dies_with_it(tmp_path, other):
    with pytest.raises(UserError, match=rf"out is in use by process {other.pid} on \S+, since 20\d\d") as error:
        OutputLock(tmp_path / "out").acquire(wait=False)
    assert "Wait for it, or stop it" in str(error.value)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert (tmp_path / ".out.lock").exists()  # what it left is taken over, and goes
    with only_writer(tmp_path / "out"):
        assert f"process {os.getpid()}" in OutputLock(tmp_path / "out").holder()
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_waits_and_says_for_whom(tmp_path, other, capsys):
    signal.signal(signal.SIGALRM, lambda *_: other.kill())
    signal.alarm(1)
    with only_writer(tmp_path / "out"):
        assert other.wait(5) == -signal.SIGKILL
    assert re.search(rf"Waiting for process {other.pid} on .*, which writes to .*out", capsys.readouterr().out)


COUNT = """
import sys, time
from pathlib import Path
from nnunet_ssl.data.locks import only_writer
counter = Path(sys.argv[1], "counter")
for _ in range(20):
    with only_writer(counter):
        found = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(found + 1))
"""


def test_no_turn_is_lost_between_processes(tmp_path):
    (tmp_path / "counter").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, tmp_path]) for _ in range(3)]
    begin = time.monotonic()
    assert [process.wait(120) for process in processes] == [0, 0, 0], time.monotonic() - begin
    assert Path(tmp_path, "counter").read_text() == "60" and len(list(tmp_path.iterdir())) == 1


def test_the_files_of_a_killed_holder_go_with_the_next_lock_beside_it(tmp_path, other):
    other.kill()
    other.wait()
    with only_writer(tmp_path / "another"):
        assert sorted(file.name for file in tmp_path.iterdir()) == [".another.lock", ".another.lock.json"]


def test_the_files_of_a_living_holder_stay(tmp_path, other):
    with only_writer(tmp_path / "another"):
        assert (tmp_path / ".out.lock").exists() and (tmp_path / ".out.lock.json").exists()
    with pytest.raises(UserError, match="in use"):
        OutputLock(tmp_path / "out").acquire(wait=False)
