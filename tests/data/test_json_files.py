"""data/json_files.py: what is wrong with a file is said in one sentence."""

from __future__ import annotations

import os

import pytest

from nnunet_ssl.data.json_files import expect, read_json
from nnunet_ssl.errors import UserError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        ('{"ä": 1}'.encode("latin-1"), "not in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not in UTF-8"),
        (b"\x1f\x8b\x08\x00\xff", "not in UTF-8"),
        (b"[" * 200000 + b"]" * 200000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"labels": 1, "labels": 2}', '"labels" occurs twice'),
        (b"[1, 2]", r"is \[1, 2\]; allowed is an object"),
        (b"null", "is null; allowed is an object"),
        (b'"text"', 'is "text"; allowed is an object'),
    ],
)
def test_a_file_that_is_none_is_named_with_what_is_wrong_and_what_repairs_it(tmp_path, content, words):
    file = tmp_path / "dataset.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        read_json(file, remedy="Run X.")
    message = str(error.value)
    assert str(file) in message and "\n" not in message and len(message) < 400
    assert message.endswith(("Run X.", "Save it in UTF-8.", "Save it in UTF-8 without one."))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is no regular file")):
        with pytest.raises(UserError, match=words):
            read_json(path)
    with pytest.raises(UserError, match=r"x\.json does not exist\. Make one"):
        read_json(tmp_path / "x.json", missing="Make one.")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "file" / "x.json")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop"):
        read_json(tmp_path / "loop")


def test_what_is_right_is_returned(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"ä": [1, {"b": null}]}', encoding="utf-8")
    assert read_json(file) == {"ä": [1, {"b": None}]}
    file.write_text("[]")
    assert read_json(file, list) == []


def test_a_key_is_named_with_what_was_found():
    expect(True, "f", "k", 1, "2")
    with pytest.raises(UserError, match=r"^f: key .k. is 1; allowed is 2\. Do it\.$"):
        expect(False, "f", "k", 1, "2", "Do it.")
