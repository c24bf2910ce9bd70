"""Commands that are killed, interrupted, on a full disk, or two at once: the result of an undisturbed run, nothing left behind."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.__main__ import KILLS, MARKS, parse_table
from tests.faults.processes import (
    WRITERS,
    Trial,
    contents,
    finish,
    prepare,
    start,
    try_full_disk,
    try_kills,
    try_kills_of_checkpoints,
    try_two_at_once,
)
from tests.helpers.paths import REPOSITORY

# the others are tried by `python -m tests.faults --long`, as all are
SHORT = ("convert", "weaken", "pseudo_label", "compare --test", "nnUNetv2_train")
EVERY = [pytest.param(name, marks=() if name in SHORT else (pytest.mark.long, pytest.mark.slow)) for name in WRITERS]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Function (name) -> the command, undisturbed; each is run once."""
    made: dict[str, Trial] = {}

    def get(name: str) -> Trial:
        if name not in made:
            made[name] = Trial(WRITERS[name], tmp_path_factory.mktemp("trial"))
        return made[name]

    return get


@pytest.mark.parametrize("name", EVERY)
def test_a_killed_command_is_repeated_and_gives_the_same(name, trials):
    tried = try_kills(trials(name), 2 if trials(name).seconds < 2 else 1, seed=sum(map(ord, name)))
    assert tried.wrong == [] and tried.number > 0


def test_a_kill_while_a_checkpoint_is_written_leaves_nothing_when_it_is_continued(trials):
    tried = try_kills_of_checkpoints(trials("nnUNetv2_train"), 2)
    assert tried.wrong == [] and tried.number > 0


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_is_one_sentence_and_the_command_works_when_there_is_space(name, trials):
    tried = try_full_disk(trials(name), 2 if trials(name).seconds < 2 else 1)
    assert tried.wrong == []


@pytest.mark.parametrize("name", EVERY)
def test_two_at_once_give_what_one_gives(name, trials):
    assert try_two_at_once(trials(name)) == []


def test_a_disk_that_is_full_is_said_to_be_and_the_command_works_on_another(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"THE FULL DISK WAS NOT TRIED: a tmpfs cannot be mounted here ({mounted.stderr.strip()})")
    try:
        root, writer = tmp_path / "root", WRITERS["weaken"]
        prepare(root, writer)
        raw = root / "nnUNet_raw"
        for folder in list(raw.iterdir()):
            shutil.move(folder, tmp_path / folder.name)
            (raw / folder.name).symlink_to(tmp_path / folder.name)
        shutil.move(raw, disk / "raw")
        raw.symlink_to(disk / "raw")
        (disk / "filler").write_bytes(b"x" * (270 * 1024))
        before = sorted(path.name for path in disk.rglob("*"))
        running = start(root, [*writer.words, "--copy"])
        printed = running.wait()
        assert running.code == 1 and "Traceback" not in printed
        assert re.search(r"(?i)no space left", printed.strip().splitlines()[-1]), printed
        assert sorted(path.name for path in disk.rglob("*")) == before
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        finish(root, [*writer.words, "--copy"])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_is_one_line_and_nothing_stays(by, code, tmp_path):
    writer = WRITERS["convert"]
    prepare(tmp_path, writer)
    before = contents(tmp_path)
    running = start(tmp_path, writer.words)
    while not any((tmp_path / "nnUNet_raw").glob(".*converting*/imagesTr/*")) and running.process.is_alive():
        time.sleep(0.001)
    running.signal(by)
    printed = running.wait(60)
    if running.code == 0:
        pytest.skip("the conversion was faster than the signal")
    assert running.code == code and "Traceback" not in printed
    assert printed.strip().endswith("interrupted.") and contents(tmp_path) == before


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6])
def test_a_signal_to_the_group_ends_its_workers(seconds, tmp_path):
    writer = WRITERS["convert"]
    prepare(tmp_path, writer)
    running = start(tmp_path, [*writer.words[:-1], "2"])
    time.sleep(seconds)
    running.signal(signal.SIGTERM, group=True)
    assert "Traceback" not in running.wait(60)  # which also waits for its workers


def test_the_page_shows_what_was_tried_and_nothing_wrong():
    page = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    names = {f"`{name}`" for name in WRITERS} | {"checkpoints of `nnUNetv2_train`"}
    for kind, (begin, end) in MARKS.items():
        rows = parse_table(page.partition(begin)[2].partition(end)[0])
        assert set(rows) == (names if kind == "kills" else names - {"checkpoints of `nnUNetv2_train`"})
        for name, (number, _, right, wrong) in rows.items():
            assert int(wrong) == 0 and int(right) == int(number) >= (KILLS if kind == "kills" else 1), name


def test_what_a_run_leaves_is_seen(tmp_path):
    Path(tmp_path, ".x.lock").write_text("")
    assert contents(tmp_path) != {}
