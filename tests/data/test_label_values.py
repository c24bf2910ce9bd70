"""data/label_values.py: numbers of classes and regions as nnU-Net's LabelManager understands them, and what it stops at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ssl.data.label_values import label_values, other_codes
from nnunet_ssl.errors import UserError

BACKGROUND = {"background": 0}


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ({"background": 0, "a": 1, "b": 2}, {"background": 0, "a": 1, "b": 2}),
        ({"background": "0", "a": "1", "b": "2"}, {"background": 0, "a": 1, "b": 2}),
        ({"background": 0, "a": [1], "b": ["2"]}, {"background": 0, "a": 1, "b": 2}),
        ({"background": 0, "a": 1.0, "ignore": 2}, {"background": 0, "a": 1, "ignore": 2}),
        ({"background": 0, "b": 2, "a": 1}, {"background": 0, "b": 2, "a": 1}),
        ({"background": 0, "all": [1, 2], "a": [1], "b": 2}, {"background": 0, "all": [1, 2], "a": [1], "b": 2}),
    ],
)
def test_numbers_are_those_of_nnunet(labels, wanted):
    content = {"labels": labels, "regions_class_order": [1, 2, 3]}
    found = label_values(content)
    assert found == wanted and list(found) == list(wanted)
    for of in (labels, found):
        manager = LabelManager(of, content["regions_class_order"])
        codes = {c for n, v in wanted.items() if n != "ignore" for c in (v if isinstance(v, list) else [v])}
        assert set(manager.all_labels) == codes and manager.ignore_label == wanted.get("ignore")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({}, "labels"),
        ({"labels": []}, "labels"),
        ({"labels": {}}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {"background": 1, "a": 0}}, "labels.background"),
        ({"labels": {"background": [0], "a": 1}}, "labels.background"),
        ({"labels": {**BACKGROUND, "a": None}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": True}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": "one"}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": 1.5}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": -1}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": []}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": [[1]]}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": 10**400}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": float("nan")}}, "labels.a"),
        ({"labels": {**BACKGROUND, "a": 1, "b": 1}}, "labels.b"),
        ({"labels": {**BACKGROUND, "a": 1, "ignore": "2"}}, "labels.ignore"),
        ({"labels": {**BACKGROUND, "a": 2, "ignore": 1}}, "labels.ignore"),
        ({"labels": {**BACKGROUND, "a": 1, "ignore": [2, 3]}}, "labels.ignore"),
        ({"labels": {**BACKGROUND, "a": [1, 2], "b": 1}}, "regions_class_order"),
        ({"labels": {**BACKGROUND, "a": [1, 2], "b": 1}, "regions_class_order": [1]}, "regions_class_order"),
        ({"labels": {**BACKGROUND, "a": [1, 2], "b": 1}, "regions_class_order": "12"}, "regions_class_order"),
        ({"labels": {**BACKGROUND, "a": ["1", "2"]}, "regions_class_order": [1]}, "labels.a"),
    ],
)
def test_what_nnunet_cannot_train_on_is_named(content, key):
    with pytest.raises(UserError, match=rf"^f: key '{key}' is .*; allowed is ") as error:
        label_values(content, "f")
    assert len(str(error.value)) < 500


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 4) | st.floats() | st.text(max_size=3),
    lambda x: st.lists(x, max_size=3),
)
NAMES = st.sampled_from(["background", "ignore", "a", "b", ""])


@given(st.dictionaries(NAMES, VALUES), st.none() | st.lists(VALUES, max_size=3))
def test_whatever_is_there_is_understood_like_nnunet_or_refused(labels, order):
    content = {"labels": labels, "regions_class_order": order}
    try:
        found = label_values(content)
    except UserError:
        return
    before, after = (LabelManager(of, order) for of in (labels, found))
    assert before.has_regions == after.has_regions and before.ignore_label == after.ignore_label
    assert list(map(int, before.all_labels)) == list(after.all_labels)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_numbers_of_no_class_are_named_in_their_order(kind):
    labels = np.array([[0, 255], [1, 7]], kind)
    assert other_codes(labels, {0, 1}) == ["7", "255"]
    assert other_codes(labels[:, :1], [0, 1]) == []
