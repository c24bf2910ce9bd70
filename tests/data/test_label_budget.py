"""Label budgets: who keeps labels, whose labels are hidden, and that patients stay on one side."""

from __future__ import annotations

import pytest

from nnunet_ssl.data.label_budget import make_budget
from nnunet_ssl.data.splits import patients_on_both_sides
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList
from nnunet_ssl.errors import UserError

CASES = [f"p{patient:02d}_f{frame}" for patient in range(10) for frame in range(2)]
GROUPS = {case: case.split("_")[0] for case in CASES}
VALIDATION = [case for case in CASES if GROUPS[case] in ("p08", "p09")]
ACDC_LIKE = [{"train": [case for case in CASES if case not in VALIDATION], "val": VALIDATION}]
LA_LIKE = [{"train": CASES, "val": CASES}]


def _content() -> UnlabeledList:
    return UnlabeledList(labeled={case: CaseRecord("", case) for case in CASES}, groups=dict(GROUPS))


def _patients(cases) -> set[str]:
    return {GROUPS[case] for case in cases}


def test_a_budget_counts_patients_and_keeps_the_validation_cases_of_the_existing_split():
    (split,), (hidden,), _ = make_budget(_content(), ACDC_LIKE, "3", seed=0)
    assert len(_patients(split["train"])) == 3 and len(split["train"]) == 6
    assert split["val"] == VALIDATION
    assert sorted(split["train"] + hidden + VALIDATION) == CASES
    assert not patients_on_both_sides(split["train"] + hidden, split["val"], GROUPS)


@pytest.mark.parametrize("percent, share", [("10%", "0.1"), ("37.5%", "0.375"), ("100%", "1.0"), ("1e1%", ".1")])
def test_percent_are_the_same_as_the_share(percent, share):
    assert make_budget(_content(), ACDC_LIKE, percent, 0) == make_budget(_content(), ACDC_LIKE, share, 0)


def test_a_fraction_is_of_the_patients_outside_validation_and_never_none():
    assert len(_patients(make_budget(_content(), ACDC_LIKE, "0.25", seed=0)[0][0]["train"])) == 2
    assert len(_patients(make_budget(_content(), ACDC_LIKE, "0.01", seed=0)[0][0]["train"])) == 1
    (split,), (hidden,), _ = make_budget(_content(), ACDC_LIKE, "1.0", seed=0)
    assert len(_patients(split["train"])) == 8 and hidden == []


def test_the_seed_decides_the_draw_and_budgets_of_one_seed_are_nested():
    def draw(labeled: str, seed: int) -> set[str]:
        return set(make_budget(_content(), ACDC_LIKE, labeled, seed)[0][0]["train"])

    assert draw("3", 0) == draw("3", 0)
    assert draw("2", 0) < draw("5", 0)
    assert len({frozenset(draw("3", seed)) for seed in range(5)}) > 1


def test_a_protocol_without_validation_set_stays_one():
    (split,), (hidden,), notes = make_budget(_content(), LA_LIKE, "4", seed=0)
    assert split["train"] == split["val"] and len(_patients(split["train"])) == 4
    assert sorted(split["train"] + hidden) == CASES
    assert "validates on its own training cases" in notes[0]


def test_a_list_names_the_labeled_cases_with_any_line_ending(tmp_path):
    file = tmp_path / "labeled.txt"
    file.write_bytes(b"p03_f0\r\n\r\np05_f1\r\n")
    (split,), (hidden,), _ = make_budget(_content(), ACDC_LIKE, str(file), None)
    assert split["train"] == ["p03_f0", "p05_f1"]
    assert "p03_f1" in hidden and len(hidden) == 14


def test_unknown_and_validating_cases_in_a_list_are_named_with_the_file(tmp_path):
    file = tmp_path / "labeled.txt"
    for text, words in (("p03_f0\np99_f0\n", "p99_f0"), ("p08_f0\n", "p08_f0 is a validation case")):
        file.write_text(text)
        with pytest.raises(UserError, match=words) as error:
            make_budget(_content(), ACDC_LIKE, str(file), None)
        assert str(file) in str(error.value)


def test_a_validation_list_with_one_frame_of_a_patient_leaves_the_other_frame_out(tmp_path):
    file = tmp_path / "val.txt"
    file.write_text("p00_f0\n")
    (split,), (hidden,), notes = make_budget(_content(), None, "3", None, val=str(file))
    assert split["val"] == ["p00_f0"]
    assert "p00_f1" not in split["train"] + hidden
    assert "p00_f1" in notes[0]


def test_a_validation_fraction_is_drawn_by_patient_and_differs_between_folds():
    splits, hidden, _ = make_budget(_content(), ACDC_LIKE, "3", seed=0, val_fraction=0.2, folds=4)
    assert len(splits) == 4
    for split, unlabeled in zip(splits, hidden):
        assert len(_patients(split["val"])) == 2
        assert not patients_on_both_sides(split["train"] + unlabeled, split["val"], GROUPS)
        assert sorted(split["train"] + unlabeled + split["val"]) == CASES
    assert len({tuple(split["val"]) for split in splits}) > 1


def test_without_any_split_five_grouped_folds_are_made():
    splits, hidden, _ = make_budget(_content(), None, "3", seed=0)
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == CASES
    for split, unlabeled in zip(splits, hidden):
        assert len(_patients(split["train"])) == 3
        assert not patients_on_both_sides(split["train"] + unlabeled, split["val"], GROUPS)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_fewer_patients_than_folds_give_a_fold_for_each(number):
    few = UnlabeledList(labeled={f"case_{k}": CaseRecord("", "") for k in range(number)})
    splits, _, _ = make_budget(few, None, "1.0", seed=0)
    assert sorted(split["val"] for split in splits) == [[case] for case in few.labeled]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labeled": "9"}, "found 8 patients .16 cases. outside validation; allowed are 1 to 8"),
        ({"labeled": "0"}, "1 to 8"),
        ({"labeled": "1.5"}, r"a share lies above 0 and not above 1 \(100%\)"),
        ({"labeled": "0%"}, "a share lies above 0"),
        ({"labeled": "101%"}, "a share lies above 0"),
        ({"labeled": "-10%"}, "a share lies above 0"),
        ({"labeled": "1.5.2%"}, "no such file, and it is no number"),
        ({"labeled": "1_0%"}, "no such file, and it is no number"),
        ({"labeled": "nofile.txt"}, "no such file"),
        ({"labeled": "3", "val_fraction": 0.99}, "10 of 10 patients"),
        ({"labeled": "3", "folds": 2}, "has 1"),
        ({"labeled": "3", "folds": 0}, "-f is 0"),
        ({"labeled": "3", "val": "nofile.txt"}, "nofile.txt does not exist"),
    ],
)
def test_impossible_requests_say_what_is_allowed(arguments, words):
    with pytest.raises(UserError, match=words):
        make_budget(_content(), ACDC_LIKE, seed=0, **arguments)


def test_a_seed_that_has_nothing_to_choose_is_refused(tmp_path):
    chosen = tmp_path / "labeled.txt"
    chosen.write_text(make_budget(_content(), ACDC_LIKE, "3", 0)[0][0]["train"][0])
    with pytest.raises(UserError, match=r"labeled.txt and the validation cases of .* --seed 0 has nothing to choose"):
        make_budget(_content(), ACDC_LIKE, str(chosen), 0)
    assert make_budget(_content(), ACDC_LIKE, str(chosen), None)
