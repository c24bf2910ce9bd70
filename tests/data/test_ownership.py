"""Only what is ours is deleted or replaced, and links are not followed."""

from __future__ import annotations

import os

import pytest

from nnunet_ssl.data.ownership import (
    RECORD,
    add_to_record,
    foreign_files,
    in_record,
    refuse_to_replace,
    remove_folder,
    write_record,
    write_recorded_json,
)
from nnunet_ssl.errors import UserError


@pytest.fixture
def ours(tmp_path):
    """A folder with a record of two files."""
    folder = tmp_path / "ours"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "below" / "b.txt").write_text("b")
    write_record(folder)
    return folder


def foreign(folder):
    return foreign_files(folder, in_record(folder))


def test_what_is_recorded_is_ours_until_it_changes(ours):
    assert foreign(ours) == []
    (ours / "below" / "new.txt").write_text("n")
    (ours / "a.txt").write_text("longer")
    assert foreign(ours) == ["a.txt", "below/new.txt"]
    add_to_record(ours / "a.txt")
    assert foreign(ours) == ["below/new.txt"]


def test_a_file_with_a_second_name_loses_nothing(ours, tmp_path):
    os.link(ours / "a.txt", tmp_path / "second name")
    (ours / "a.txt").write_text("changed through the other name")
    assert foreign(ours) == []


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 9, "files": {}}', '{"format": 1}'])
def test_without_a_record_nothing_is_ours(ours, content):
    (ours / RECORD).unlink() if content is None else (ours / RECORD).write_text(content)
    assert foreign(ours) == ["a.txt", "below/b.txt"]
    with pytest.raises(UserError, match=rf"has no {RECORD}"):
        refuse_to_replace(ours, [], "another name")
    assert remove_folder(ours) == ["a.txt", "below/b.txt"] and (ours / "a.txt").is_file()


def test_removing_leaves_what_others_wrote_and_does_not_follow_links(ours, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").write_text("b")
    (ours / "below" / "link").symlink_to(outside, target_is_directory=True)
    (ours / "notes.txt").write_text("mine")
    assert sorted(remove_folder(ours)) == ["below/link", "notes.txt"]
    assert (outside / "b.txt").is_file() and not (ours / "a.txt").exists() and (ours / "below" / "link").is_symlink()
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "x").write_text("x")
    write_record(whole)
    linked = tmp_path / "linked"
    linked.symlink_to(whole, target_is_directory=True)
    assert remove_folder(linked) == [] and (whole / "x").is_file()
    assert remove_folder(whole) == [] and not whole.exists()


def test_an_input_inside_is_named(ours, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(ours / "below")
    for given in (ours, ours / "a.txt", ours / "below" / ".." / "a.txt", link / "b.txt"):
        with pytest.raises(UserError, match=r"lies in .*ours, which would be replaced"):
            refuse_to_replace(ours, [tmp_path / "elsewhere", given], "another name")
    refuse_to_replace(ours, [tmp_path / "elsewhere", tmp_path], "another name")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is no folder"):
        refuse_to_replace(tmp_path / "file", [], "another name")


def test_a_file_with_additions_by_hand_does_not_become_ours(ours):
    write_recorded_json({"x": 1}, ours / "list.json")
    assert foreign(ours) == []
    (ours / "list.json").write_text('{"x": 1, "by hand": 2}')
    write_recorded_json({"x": 2, "by hand": 2}, ours / "list.json")
    assert foreign(ours) == ["list.json"]
