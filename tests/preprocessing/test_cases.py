"""Stale cases go by their names: nothing else in the folder, and nothing behind a link."""

from __future__ import annotations

import pytest

from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.cases import CASE_ENDINGS, _remove_cases


def files(folder, *cases):
    folder.mkdir(exist_ok=True)
    for case in cases:
        for ending in CASE_ENDINGS:
            (folder / f"{case}{ending}").write_text("x")
    return folder


def test_only_files_of_the_named_cases_go(tmp_path):
    folder = files(tmp_path / "cases", "a", "a [2]", "ab")
    (folder / "notes.txt").write_text("mine")
    (folder / "a.pkl.txt").write_text("mine")
    (tmp_path / "outside.pkl").write_text("x")
    (folder / "gone.pkl").symlink_to(tmp_path / "outside.pkl")
    _remove_cases(folder, {"a", "a [2]", "gone", "never there"})
    left = {file.name for file in folder.iterdir()}
    assert left == {*(f"ab{ending}" for ending in CASE_ENDINGS), "notes.txt", "a.pkl.txt", "gone.pkl"}


def test_a_linked_folder_is_not_followed(tmp_path):
    files(tmp_path / "elsewhere", "a")
    (tmp_path / "cases").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"cases is a link to .*elsewhere, in which a\.pkl would be deleted"):
        _remove_cases(tmp_path / "cases", {"a"})
    assert len(list((tmp_path / "elsewhere").iterdir())) == len(CASE_ENDINGS)
    _remove_cases(tmp_path / "cases", {"b"})  # nothing to delete
