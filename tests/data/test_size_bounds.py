"""Tests of `nnunet_ssl.data.size_bounds`."""

from __future__ import annotations

import pytest

from nnunet_ssl.data.size_bounds import read_size_bounds
from nnunet_ssl.errors import UserError

LABELS = {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}


def test_size_bounds_are_by_channel_of_classes_and_of_regions():
    given = {"lesion": {"mm2": [1, 10.5], "mm3": [0, 50]}}
    assert read_size_bounds({"labels": LABELS, "size_bounds": given}, 2, "f") == {2: (1.0, 10.5)}
    assert read_size_bounds({"labels": LABELS, "size_bounds": given}, 3, "f") == {2: (0.0, 50.0)}
    regions = {"background": 0, "whole": [1, 2], "lesion": [2], "ignore": 3}
    content = {"labels": regions, "regions_class_order": [1, 2], "size_bounds": given}
    assert read_size_bounds(content, 2, "f") == {1: (1.0, 10.5)}


@pytest.mark.parametrize(
    "given, message",
    [
        (None, r"found None. Add \"size_bounds\": \{\"organ\": \{\"mm2\""),
        ({}, "found {}"),
        ({"liver": {"mm2": [1, 2]}}, "names liver; foreground labels are organ, lesion"),
        ({"organ": {"mm3": [1, 2]}}, "'organ' needs 'mm2' for a 2d configuration"),
        ({"organ": {"mm2": [3, 2]}}, r"found \{'mm2': \[3, 2\]\}"),
        ({"organ": {"mm2": [1, 2, 3]}}, r"found .*\[1, 2, 3\]"),
        ({"organ": {"mm2": [1, "x"]}}, "two increasing numbers"),
        ({"organ": 5}, "'organ' needs 'mm2' for a 2d configuration"),
        ({"organ": {"mm2": [0, 0]}}, "two increasing numbers"),
    ],
)
def test_wrong_size_bounds_are_refused(given, message):
    content = {"labels": LABELS} if given is None else {"labels": LABELS, "size_bounds": given}
    with pytest.raises(UserError, match=message):
        read_size_bounds(content, 2, "f")
