"""One rule for what folders hold: hidden files are no cases, and nothing vanishes without a word."""

from __future__ import annotations

import os

import pytest

from nnunet_ssl.data.listing import channels_of_cases, files_with_ending, refuse_hidden_files, refuse_other_endings
from nnunet_ssl.errors import UserError

ENDING = ".nii.gz"


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b_0000.nii.gz",
        "a [2]_0001.nii.gz",
        "a [2]_0000.nii.gz",
        "._b_0000.nii.gz",
        ".DS_Store",
        "notes.txt",
    ):
        (tmp_path / name).write_text("")
    return tmp_path


def test_what_is_there(folder):
    assert list(files_with_ending(folder, ENDING)) == ["a [2]_0000", "a [2]_0001", "b_0000"]
    assert channels_of_cases(folder, ENDING) == {
        "a [2]": [str(folder / f"a [2]_000{i}.nii.gz") for i in (0, 1)],
        "b": [str(folder / "b_0000.nii.gz")],
    }
    assert files_with_ending(folder / "missing", ENDING) == {}


def test_a_file_without_channel_is_named(folder):
    (folder / "c.nii.gz").write_text("")
    with pytest.raises(UserError, match=r"c\.nii\.gz: an image in .* must be named CASE_XXXX\.nii\.gz"):
        channels_of_cases(folder, ENDING)


@pytest.mark.parametrize("kind", ["dangling link", "pipe", "folder"])
def test_an_entry_that_is_no_file_does_not_vanish(folder, kind):
    entry = folder / "c_0000.nii.gz"
    if kind == "dangling link":
        entry.symlink_to("/mnt/store/c_0000.nii.gz")
    elif kind == "pipe":
        os.mkfifo(entry)
    else:
        entry.mkdir()
    link = "a link to /mnt/store/c_0000.nii.gz, which does not exist"
    found = {"dangling link": link, "pipe": "no regular file", "folder": "a folder"}
    with pytest.raises(UserError, match=f"c_0000.nii.gz is {found[kind]}"):
        files_with_ending(folder, ENDING)


def test_a_link_to_a_file_is_one_and_a_folder_must_be_there(folder):
    (folder / "l_0000.nii.gz").symlink_to(folder / "b_0000.nii.gz")
    assert "l_0000" in files_with_ending(folder, ENDING)
    gone = folder / "gone"
    gone.symlink_to("/mnt/store")
    with pytest.raises(UserError, match=r"gone is a link to /mnt/store, which does not exist"):
        files_with_ending(gone, ENDING)
    with pytest.raises(UserError, match=r"notes.txt is no regular file; allowed is a folder"):
        files_with_ending(folder / "notes.txt", ENDING)


def test_hidden_files_are_named_where_nnunet_would_take_them(folder):
    with pytest.raises(UserError, match=r"1 hidden file\(s\): \._b_0000\.nii\.gz.*find .* -delete"):
        refuse_hidden_files(folder, ENDING)
    (folder / "._b_0000.nii.gz").unlink()
    refuse_hidden_files(folder, ENDING)
    refuse_hidden_files(folder / "missing", ENDING)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("c.NII.GZ", r"Rename it to c\.nii\.gz\."),
        ("c.Nii.gz", r"Rename it to c\.nii\.gz\."),
        ("c.nii", "Rename or convert it"),
        ("c.MHD", "Rename or convert it"),
    ],
)
def test_an_image_with_another_ending_does_not_vanish(folder, name, remedy):
    refuse_other_endings(folder, "CASE", [ENDING])
    refuse_other_endings(folder / "missing", "CASE", [ENDING])
    (folder / f".{name}").write_text("")
    refuse_other_endings(folder, "CASE", [ENDING])
    (folder / name).write_text("")
    with pytest.raises(UserError, match=rf"{name}: a file in .* must be named CASE\.nii\.gz\. .*{remedy}"):
        refuse_other_endings(folder, "CASE", [ENDING])
