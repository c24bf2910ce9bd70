"""Files that are complete or as they were, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest

from nnunet_ssl.data.atomic import (
    remove_abandoned,
    remove_unfinished,
    write_atomically,
    write_json_atomically,
    write_named_atomically,
)
from nnunet_ssl.data.owners import own_mark
from nnunet_ssl.errors import UserError


def test_json_is_written_with_sorted_keys_and_nothing_lies_beside_it(tmp_path):
    write_json_atomically({"b": [1, 2], "a": "ä"}, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"b": [1, 2], "a": "ä"}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_file_is_written_under_another_name_of_the_same_folder_and_renamed(tmp_path):
    file, seen = tmp_path / "a.bin", []

    def write(temporary):
        seen.append((temporary.parent, temporary.name, file.exists()))
        temporary.write_bytes(b"new")

    write_atomically(file, write)
    assert file.read_bytes() == b"new"
    assert seen == [(tmp_path, f".a.bin.{own_mark()}.tmp", False)]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_whatever_is_raised_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(file, write)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_writer_that_looks_at_the_ending_gets_it_and_leaves_nothing_behind(tmp_path):
    file, seen = tmp_path / "a.nii.gz", []

    def write(name):
        seen.append(name.endswith(".nii.gz") and not file.exists())
        Path(name).write_bytes(b"new")

    write_named_atomically(file, ".nii.gz", write)
    assert seen == [True] and file.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.nii.gz"]

    def fail(name):
        Path(name).write_bytes(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_named_atomically(file, ".nii.gz", fail)
    assert file.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.nii.gz"]


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json_atomically({"a": 1}, tmp_path / "a.json")
    with pytest.raises(TypeError):
        write_json_atomically({"a": {1, 2}}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_mistake_that_the_user_can_repair(tmp_path, monkeypatch, code):
    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json cannot be written: .*Free some space"):
        write_json_atomically({"a": 1}, tmp_path / "a.json")
    assert os.listdir(tmp_path) == []


def test_any_other_fault_of_the_disk_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken disk"):
        write_json_atomically({"a": 1}, tmp_path / "a.json")
    assert os.listdir(tmp_path) == []


def test_only_what_killed_processes_left_half_written_is_removed(tmp_path):
    left = [".a.json.node-123.tmp", ".b.nii.gz.node-7.tmp.nii.gz", ".a.json.some-host-12.tmp"]
    others = ["a.json", ".hidden", ".a.tmp", "notes.txt", ".b.nii.gz.tmp"]
    for name in left + others:
        (tmp_path / name).write_text(name)
    remove_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others)


def test_the_first_file_that_a_process_writes_removes_what_killed_ones_of_this_host_have_left(tmp_path):
    host, gone = socket.gethostname(), 2**22 + 1  # beyond the largest number of a process
    left = [f".a.json.{host}-{gone}.tmp", f".b.json.{host}-{gone}.tmp.png"]
    others = [f".a.json.{host}-{os.getppid()}.tmp", f".a.json.elsewhere-{gone}.tmp", "a.tmp"]
    for name in left + others:
        (tmp_path / name).write_text(name)
    write_json_atomically({}, tmp_path / "a.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*others, "a.json"])
    (tmp_path / left[0]).write_text("left later")
    write_json_atomically({}, tmp_path / "a.json")  # the folder is not listed again
    assert (tmp_path / left[0]).exists()
    remove_abandoned(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*others, "a.json"])
