"""Text files and numbers of users."""

from __future__ import annotations

import os

import pytest

from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.texts import check_voxel_size, read_bytes, read_lines, whole_number
from nnunet_ssl.errors import UserError


def test_lines_with_and_without_a_byte_order_mark(tmp_path):
    file = tmp_path / "cases.txt"
    for content in (b"a\nb\xc3\xa4\n", b"\xef\xbb\xbfa\r\nb\xc3\xa4"):
        file.write_bytes(content)
        assert read_lines(file, "") == ["a", "bä"]


@pytest.mark.parametrize("read", [read_lines, read_bytes, lambda file, remedy: read_json(file, remedy=remedy)])
def test_what_is_no_file_is_refused_with_the_remedy_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, found in (("pipe", "no regular file"), ("folder", "a folder"), ("missing", "does not exist")):
        with pytest.raises(UserError, match=f"{name}.* {found}.* Give a list."):
            read(tmp_path / name, "Give a list.")


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "cases.txt").write_bytes("ä".encode("latin-1"))
    with pytest.raises(UserError, match=r"cases.txt is not a text file in UTF-8 .* Save it\."):
        read_lines(tmp_path / "cases.txt", "Save it.")


def test_what_is_missing_may_have_a_remedy_of_its_own(tmp_path):
    with pytest.raises(UserError, match=r"does not exist. Run x\.$"):
        read_bytes(tmp_path / "x", "Correct it.", missing="Run x.")


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("007", 7), ("", None), ("-1", None), ("²", None), ("9" * 30, None)]
)
def test_whole_numbers(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize("size", [(0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_sizes_of_voxels_are_positive_and_finite(size):
    check_voxel_size("--spacing", (1.0, 2.5), "one or two")
    with pytest.raises(UserError, match=r"--spacing .*one or two positive numbers in mm"):
        check_voxel_size("--spacing", size, "one or two")
