"""Marks of processes in names."""

from __future__ import annotations

import os
import socket

import pytest

from nnunet_ssl.data.atomic import is_unfinished, remove_abandoned, remove_unfinished
from nnunet_ssl.data.owners import is_abandoned, own_mark

GONE = 2**22 + 1  # beyond the largest number of a process


@pytest.mark.parametrize("host", ["node", "node-7", "node.cluster.example"])
def test_a_mark_names_its_process_whatever_the_host_is_called(host, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert not is_abandoned(own_mark())
    gone = own_mark().replace(f"-{os.getpid()}", f"-{GONE}")
    assert is_abandoned(gone)
    name = f".a.json.{gone}.tmp"
    (tmp_path / name).touch()
    assert is_unfinished(name)
    remove_abandoned(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mark", [f"elsewhere-{GONE}", "no_number", f"-{'9' * 30}", "", f"{GONE}", f"-{GONE}"])
def test_marks_of_other_hosts_and_other_texts_are_never_abandoned(mark):
    assert not is_abandoned(mark)


@pytest.mark.parametrize("name", [f".a.json.{GONE}.tmp", f".a.{GONE}.tmp.nii.gz", f".2024.{GONE}.tmp"])
def test_a_name_without_a_host_is_somebody_elses(name, tmp_path):
    (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    remove_unfinished(tmp_path)
    assert (tmp_path / name).exists() and not is_unfinished(name)
