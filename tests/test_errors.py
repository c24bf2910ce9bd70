"""What messages list: some names, faults line by line, and a piece of what was found."""

from __future__ import annotations

from nnunet_ssl.errors import excerpt, listed, some


def test_a_message_names_the_first_and_counts_the_others():
    assert some([]) == ""
    assert some(["a", "b"]) == "a, b"
    assert some((f"c{number}" for number in range(5)), 3) == "c0, c1, c2 and 2 more"
    assert some(map(str, range(11))).endswith("8, 9 and 1 more")


def test_faults_stand_on_lines_of_their_own():
    assert listed(["one", "two"]) == "  - one\n  - two"
    assert listed(["one", "two", "three"], 2) == "  - one\n  - two\n  ... and 1 more"


def test_what_was_found_is_cut_to_80_characters():
    assert excerpt({"a": [1]}) == '{"a": [1]}'
    assert excerpt("x" * 78) == '"' + "x" * 78 + '"'
    assert excerpt("x" * 79) == '"' + "x" * 76 + "..."
