"""A call on a bare machine: what is missing is named, and everything ends before the limit."""

from __future__ import annotations

import json
import sys
import time

import pytest

from benchmarks.gpu import start

IGNORING = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def test_packages_that_are_neither_installed_nor_here_are_named_with_their_part(tmp_path, capsys):
    here = "absent_but_here-1.0-py3-none-any.whl"
    parts = {"wheels1": ["numpy-2.0-x.whl", here], "wheels2": ["not_there-1.0-py3-none-any.whl"]}
    (tmp_path / "wheels1").mkdir()
    (tmp_path / "wheels1" / "bundle.json").write_text(json.dumps(parts))
    (tmp_path / "wheels1" / here).touch()
    assert [wheel.name for wheel in start.absent_wheels(tmp_path)] == [here, *parts["wheels2"]]
    assert start.main(["--parts", str(tmp_path), "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]) == 0
    assert "missing: not_there. Carry wheels2." in capsys.readouterr().out


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no part with a bundle\.json"):
        start.bundled(tmp_path)


def test_it_returns_in_time_even_if_the_queue_does_not_listen():
    begin = time.monotonic()
    assert start.watched([sys.executable, "-c", IGNORING], begin + 3, grace=0.5) == 0
    assert time.monotonic() - begin < 6


def test_it_returns_when_the_queue_is_done():
    assert start.watched([sys.executable, "-c", "raise SystemExit(3)"], time.monotonic() + 60, grace=0.5) == 3
