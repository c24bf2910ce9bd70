"""The key `partial_labels` of dataset.json: reading it, checking it against the cases, and sampling by source."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.data.annotated_classes import PartialLabels
from nnunet_ssl.errors import UserError

LABELS = {"background": 0, "liver": 1, "tumor": 2, "pancreas": 3, "ignore": 4}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "edema": 1}
CONTENT = {
    "default": ["pancreas"],
    "sources": {
        "lits": {"prefix": "lits_", "annotated": ["liver", "tumor"]},
        "nihp": {"cases": ["nihp_1", "nihp_2"], "annotated": ["pancreas"]},
    },
    "cases": {"lits_7": ["liver"], "odd": []},
}


def partial(content=CONTENT, labels=LABELS) -> PartialLabels:
    order = list(range(1, len(labels) + 1 - ("background" in labels) - ("ignore" in labels)))
    described = {"labels": labels, "regions_class_order": order, "partial_labels": content}
    return PartialLabels.of(described, "here/dataset.json")


def test_a_case_has_the_classes_of_its_own_entry_else_of_its_source_else_the_default():
    table = partial()
    expected = {
        "lits_1": {"liver", "tumor"},
        "lits_7": {"liver"},
        "nihp_2": {"pancreas"},
        "odd": set(),
        "other": {"pancreas"},
    }
    assert {case: table.names(case) for case in expected} == expected
    assert table.source("lits_7") == "lits" and table.source("odd") is None
    assert table.columns("lits_1", [1, 2, 3]) == {1, 2} and table.columns("odd", [1, 2, 3]) == frozenset()


def test_without_the_key_there_is_no_table_and_all_is_the_default():
    assert PartialLabels.of({"labels": LABELS}) is None
    for content in ({}, {"default": "all"}):
        assert partial(content).names("any") == {"liver", "tumor", "pancreas"}


def test_a_region_is_annotated_where_it_is_named_or_made_up_of_named_ones():
    targets = [(1, 2, 3), (2, 3), 3, 1]
    for names, expected in (
        (["whole"], {1}),  # what lies inside it is not known
        (["core", "edema"], {1, 2, 4}),
        (["enhancing"], {3}),
        (["whole", "enhancing"], {1, 3}),
        ([], set()),
    ):
        assert partial({"default": names}, REGIONS).columns("case", targets) == expected


@pytest.mark.parametrize(
    "content, message",
    [
        (["liver"], r"here/dataset.json: partial_labels is \[\"liver\"\]; allowed is an object"),
        ({"source": {}}, r"partial_labels.source is \{\}; allowed is one of the keys default, sources, cases"),
        ({"default": ["kidney"]}, "partial_labels.default: class 'kidney'.*liver, tumor, pancreas"),
        ({"default": "none"}, 'partial_labels.default is "none"; allowed is a list of class names or "all"'),
        ({"cases": {"a": "liver"}}, "partial_labels.cases.a"),
        ({"cases": {"a": ["ignore"]}}, "class 'ignore'"),
        ({"cases": {"a": ["background"]}}, "class 'background'"),
        ({"sources": {"x": {"annotated": ["liver"]}}}, 'sources.x.*either "prefix" or "cases"'),
        ({"sources": {"x": {"prefix": "a", "cases": ["b"], "annotated": []}}}, 'either "prefix" or "cases"'),
        ({"sources": {"x": {"prefix": "", "annotated": []}}}, "sources.x.prefix"),
        ({"sources": {"x": {"cases": "b", "annotated": []}}}, "sources.x.cases"),
        ({"sources": {"x": {"prefix": "a"}}}, 'object with "annotated"'),
        ({"sources": {"x": {"prefix": "a", "annotate": []}}}, "sources.x.annotate"),
    ],
)
def test_a_malformed_key_is_named_with_what_is_allowed(content, message):
    with pytest.raises(UserError, match=message):
        partial(content)


def test_a_case_of_two_sources_is_refused():
    content = {
        "sources": {"a": {"prefix": "li", "annotated": ["liver"]}, "b": {"prefix": "lits", "annotated": ["tumor"]}}
    }
    assert partial(content).source("li_1") == "a"
    with pytest.raises(UserError, match="case lits_1 belongs to the sources a, b"):
        partial(content).names("lits_1")


PRESENT = {"lits_1": {1, 2}, "lits_7": {1}, "nihp_1": {3}, "nihp_2": set(), "odd": set(), "other": {3}}


def test_what_is_stored_must_be_annotated():
    partial().check(PRESENT)
    with pytest.raises(UserError, match=r"case lits_7 holds 'tumor' \(label 2\), which partial_labels.*there: liver"):
        partial().check(PRESENT | {"lits_7": {1, 2}})
    with pytest.raises(UserError, match=r"case odd holds 'pancreas' \(label 3\).*there: nothing"):
        partial().check(PRESENT | {"odd": {3}})
    table = partial({"default": ["enhancing"]}, REGIONS)
    table.check({"a": {(1, 2, 3), (2, 3), 3}})  # a stored 3 is in all three
    with pytest.raises(UserError, match="holds 'edema'"):
        table.check({"a": {(1, 2, 3), 1}})


@pytest.mark.parametrize(
    "missing, message",
    [
        ("odd", "partial_labels.cases names odd, which is no case"),
        ("nihp_1", "partial_labels.sources.nihp.cases names nihp_1"),
        ("lits_", "no case begins with 'lits_', the prefix of partial_labels.sources.lits"),
    ],
)
def test_names_of_cases_that_do_not_exist_are_refused_unless_they_are_known_otherwise(missing, message):
    content = CONTENT | {"cases": {"odd": []}}
    present = {case: found for case, found in PRESENT.items() if not case.startswith(missing)}
    with pytest.raises(UserError, match=message):
        partial(content).check(present)
    partial(content).check(present, also_known=["odd", "nihp_1", "lits_99"])


def test_a_table_that_annotates_nothing_is_refused():
    with pytest.raises(UserError, match="names no annotated class in any case"):
        partial({"default": []}).check({"a": set(), "b": set()})


def test_the_summary_counts_what_is_annotated_and_what_occurs_and_warns_of_rare_classes():
    lines = partial().summary(PRESENT, [1, 2, 3])
    assert lines == [
        "liver: annotated in 2 of 6 training cases, occurs in 2",
        "tumor: annotated in 1 of 6 training cases, occurs in 1",
        "pancreas: annotated in 3 of 6 training cases, occurs in 2",
    ]
    many = {f"nihp{i}": {3} for i in range(150)} | {"lits_7": {1}, "lits_1": {1}}
    lines = partial().summary(many, [1, 2, 3])
    assert "Warning" not in lines[0] and lines[1].endswith("Warning: that is less than 1% of the cases")
    with pytest.raises(UserError, match="'tumor' is annotated in none of the 1 training cases"):
        partial().summary({"lits_7": {1}}, [1, 2, 3])


def test_the_probability_of_a_source_grows_with_the_root_of_its_size():
    cases = [f"lits_{i}" for i in range(16)] + ["nihp_1", "nihp_2"] + ["a", "b", "c", "d"]
    p = partial().probabilities(cases, [1, 2, 3], "sqrt")
    np.testing.assert_allclose([p[:16].sum(), p[16:18].sum(), p[18:].sum()], np.array([4, 2**0.5, 2]) / (6 + 2**0.5))
    assert len(set(p[:16])) == 1


def test_equal_probabilities_are_none_so_that_nothing_changes():
    table = partial({"default": "all"})
    for sampling in ("sqrt", "uniform", "class_balanced"):
        assert table.probabilities(["a", "b", "c"], [1, 2, 3], sampling) is None
    assert partial().probabilities(["lits_1", "nihp_1"], [1, 2, 3], "uniform") is None


def test_class_balanced_draws_each_class_equally_often():
    cases = ["lits_1", "lits_2", "lits_3", "lits_7", "nihp_1", "odd"]
    p = partial().probabilities(cases, [1, 2, 3], "class_balanced")
    # liver in 4 cases, tumor in 3, pancreas in 1; odd annotates nothing
    np.testing.assert_allclose(p, np.array([*[1 / 4 + 1 / 3] * 3, 1 / 4, 1, 0]) / 3)
    with pytest.raises(ValueError, match="sqrt, uniform, class_balanced, got 'root'"):
        partial().probabilities(cases, [1, 2, 3], "root")
