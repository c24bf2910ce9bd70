"""Commands that are killed or interrupted, and two at once: the same result as undisturbed, and nothing left behind."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path

import pytest

from tests.faults.processes import WRITERS, contents, finish, killed, prepare, start, try_kills


@pytest.fixture
def make_root(tmp_path):
    numbers = itertools.count()

    def make() -> Path:
        root = tmp_path / f"root{next(numbers)}"
        root.mkdir()
        return root

    return make


@pytest.mark.parametrize("name", ["convert", "preprocess_unlabeled"])
def test_a_killed_command_is_repeated_and_gives_the_same(name, make_root):
    assert try_kills(make_root, WRITERS[name], {"convert": 4}.get(name, 1)) == []


@pytest.mark.parametrize("name", ["convert", "plan_and_preprocess", "merge"])
def test_two_at_once_give_what_one_gives(name, make_root):
    one, two = make_root(), make_root()
    for root in (one, two):
        prepare(root, WRITERS[name])
    finish(one, WRITERS[name])
    processes = [start(two, WRITERS[name]) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert "Traceback" not in "".join(printed)
    # `merge` does not compare: the second is told that there is one
    assert sorted(codes) == ([0, 1] if name == "merge" else [0, 0]), printed
    assert contents(two) == contents(one)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_is_one_line_and_nothing_stays(by, code, make_root):
    root, writer = make_root(), WRITERS["convert"]
    prepare(root, writer)
    before = contents(root)
    process = start(root, writer)
    while not any((root / "nnUNet_raw").glob(".*converting*/imagesTr/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(by)
    printed, _ = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the conversion was faster than the signal")
    assert process.returncode == code and "Traceback" not in printed
    assert printed.strip().endswith("interrupted.") and contents(root) == before


def test_a_signal_to_the_group_ends_its_workers(make_root):
    root, writer = make_root(), WRITERS["convert"]
    prepare(root, writer)
    printed = killed(root, writer, 0.0, signal.SIGTERM)
    assert "Traceback" not in printed
