"""Intervals, paired tests, Holm's correction and the summary table."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.statistics import (
    FOREGROUND,
    average_folds,
    bootstrap_interval,
    class_mean,
    classes_of_some,
    holm,
    paired_test,
    summarize,
)

NAN = float("nan")


def column(*values: float) -> np.ndarray:
    """(cases, 1)"""
    return np.array(values, float)[:, None]


def signed_rank(values: np.ndarray, reference: np.ndarray, patients: list[str] | None = None) -> dict:
    """`paired_test` of `(cases, classes)`, all from one fold."""
    return paired_test(values[:, None], reference[:, None], patients)


def long_table(dice: dict[str, dict[str, list[float]]], fold: str = "0", empty: str = "") -> pd.DataFrame:
    """trainer -> class -> value per case; every metric gets the same value."""
    rows = [
        {
            "trainer": t,
            "fold": fold,
            "case": f"case_{i}",
            "class": c,
            "metric": m,
            "unit": u,
            "value": v,
            "empty": empty,
        }
        for t, of_class in dice.items()
        for c, values in of_class.items()
        for i, v in enumerate(values)
        for m, u in METRICS
    ]
    return pd.DataFrame(rows)


def row(summary: pd.DataFrame, trainer: str, name: str, metric: str = "Dice", unit: str = "%") -> pd.Series:
    keys = {"trainer": trainer, "class": name, "metric": metric, "unit": unit}
    found = summary[np.logical_and.reduce([summary[key] == value for key, value in keys.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_the_foreground_mean_is_the_mean_over_classes_of_the_mean_over_cases():
    matrix = np.array([[80.0, 60.0], [90.0, NAN], [100.0, 20.0]])
    assert class_mean(matrix) == pytest.approx((90 + 40) / 2)  # the mean of the rows' means would be 73.33


def test_the_interval_of_one_class_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(10, 2, (40, 1)))
        assert low < high
        covered += low <= 10 <= high
    assert 0.88 <= covered / 100 <= 1


def test_the_interval_is_near_the_normal_one_reproducible_and_ignores_missing_cases():
    values = np.random.default_rng(1).normal(5, 1, (400, 1))
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.vstack((values, column(NAN, NAN)))) == (low, high)


def test_the_foreground_interval_resamples_cases_and_not_single_values():
    shared = np.random.default_rng(2).normal(0, 1, (50, 1))
    same_twice = bootstrap_interval(np.hstack((shared, shared)))
    assert same_twice == pytest.approx(bootstrap_interval(shared))  # a second copy of a class is no new evidence


@pytest.mark.parametrize("number", [2, 3, 4, 20])
def test_a_class_that_few_patients_show_is_in_every_resample(number):
    """Else some resamples are the mean of one class: an organ near 90, a lesion near 30 in `number` of 20 patients."""
    rng = np.random.default_rng(4)
    matrix = np.stack([rng.normal(90, 1, 20), rng.normal(30, 1, 20)], axis=1)
    matrix[number:, 1] = NAN
    low, high = bootstrap_interval(matrix)
    assert 58 < low < class_mean(matrix) < high < 62


def test_a_class_of_one_patient_has_no_interval_and_neither_has_its_mean_with_others():
    matrix = np.array([[90.0, 30.0, NAN], [91.0, NAN, NAN], [89.0, NAN, NAN]])
    assert np.isnan(bootstrap_interval(matrix)).all()
    assert not np.isnan(
        bootstrap_interval(matrix[:, [0, 2]])
    ).any()  # a class that nobody shows is no class of the mean
    twice = np.vstack((matrix, matrix[:1]))
    assert np.isnan(bootstrap_interval(twice, patients=["a", "b", "c", "a"])).all()


def test_one_case_has_no_interval():
    assert np.isnan(bootstrap_interval(column(3.0))).all()
    assert np.isnan(bootstrap_interval(column(3.0, NAN))).all()


def test_six_cases_all_better_give_the_smallest_two_sided_p_of_six_signs():
    result = signed_rank(column(1, 2, 3, 4, 5, 6), column(0, 0, 0, 0, 0, 0))
    assert result["p"] == pytest.approx(2 / 2**6)
    assert result["median_difference"] == 3.5 and result["n_pairs"] == 6 and result["remark"] == ""


def test_five_cases_are_not_tested_and_the_table_says_why():
    result = signed_rank(column(1, 2, 3, 4, 5), column(0, 0, 0, 0, 0))
    assert np.isnan(result["p"]) and "6 are needed" in result["remark"]
    assert result["median_difference"] == 3


def test_equal_results_are_zero_differences_and_not_tested():
    values = column(*np.linspace(0, 1, 12))
    result = signed_rank(values, values + 1e-14)
    assert result["n_zero"] == 12 and np.isnan(result["p"]) and result["median_difference"] == 0


def test_zero_differences_leave_the_test_but_not_the_median():
    differences = np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, -7.5])
    result = signed_rank(column(*differences), np.zeros((11, 1)))
    assert result["n_zero"] == 4
    assert result["p"] == pytest.approx(stats.wilcoxon(differences[4:], method="exact").pvalue)
    assert result["median_difference"] == np.median(differences)


def test_missing_values_are_dropped_in_pairs_and_counted():
    one, other = column(1, 2, NAN, 4, 5, 6, 7, 8), column(0, NAN, NAN, 0, 0, 0, 0, 0)
    result = signed_rank(one, other)
    assert (result["n_pairs"], result["n_unpaired"]) == (6, 1)
    assert result["p"] == pytest.approx(2 / 2**6)


def test_a_case_with_different_classes_defined_is_not_paired():
    one = np.array([[80.0, 70.0], [90.0, NAN], [60.0, NAN]])
    other = np.array([[70.0, 70.0], [10.0, 10.0], [50.0, NAN]])
    result = signed_rank(one, other)
    assert (result["n_pairs"], result["n_unpaired"]) == (2, 1)
    assert result["median_difference"] == 7.5  # of (75 - 70) and (60 - 50)


def test_many_or_tied_differences_use_the_normal_approximation_and_say_so():
    rng = np.random.default_rng(3)
    many = signed_rank(rng.normal(0.1, 1, (60, 1)), np.zeros((60, 1)))
    tied = signed_rank(column(*([1.0] * 10 + [-2.0] * 6)), np.zeros((16, 1)))
    assert many["remark"] == tied["remark"] == "normal approximation"
    assert 0 < many["p"] <= 1 and 0 < tied["p"] <= 1


@pytest.mark.parametrize("ties", [[1, 1, 1, 1, 2, -1], [3, 3, -3, 1, 1, 2, 2, 2, -1, 5]])
def test_few_tied_differences_have_the_share_of_all_signs_that_are_as_extreme(ties):
    ranks = stats.rankdata(np.abs(ties))
    sums = [ranks @ signs for signs in itertools.product((0, 1), repeat=len(ties))]
    found = ranks @ (np.array(ties) > 0)
    expected = 2 * min(np.mean(sums <= found), np.mean(sums >= found))
    result = signed_rank(column(*ties), np.zeros((len(ties), 1)))
    assert result["p"] == pytest.approx(min(1, expected)) and result["remark"] == ""


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_decreases():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_only_what_was_tested_and_stops_at_one():
    adjusted = holm([0.02, NAN, 0.7])
    assert adjusted[0] == pytest.approx(0.04) and np.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.7)
    assert holm([0.6, 0.8]) == [1.0, 1.0]


def test_the_summary_pairs_with_the_first_trainer_and_corrects_over_the_trainers():
    rng = np.random.default_rng(4)
    base = {"organ": list(rng.normal(80, 5, 10)), "lesion": list(rng.normal(50, 9, 10))}
    gains = {"better": rng.uniform(1, 2, 10), "alike": rng.uniform(-1, 1, 10)}
    dice = {"base": base}
    for name, gain in gains.items():
        dice[name] = {c: [v + g for v, g in zip(values, gain)] for c, values in base.items()}
    summary = summarize(long_table(dice), list(dice), ["organ", "lesion"])
    assert len(summary) == 3 * 3 * len(METRICS)

    better, alike = row(summary, "better", FOREGROUND), row(summary, "alike", FOREGROUND)
    assert better["mean"] == pytest.approx(row(summary, "base", FOREGROUND)["mean"] + gains["better"].mean())
    assert better["median_difference"] == pytest.approx(np.median(gains["better"]))
    assert better["p"] == pytest.approx(2 / 2**10) and better["p_holm"] == pytest.approx(2 * better["p"])
    assert alike["p"] == pytest.approx(stats.wilcoxon(gains["alike"]).pvalue)
    assert alike["p_holm"] == pytest.approx(alike["p"])
    assert better["ci_low"] < better["mean"] < better["ci_high"]
    assert np.isnan(row(summary, "better", "organ")["p_holm"]) and not np.isnan(row(summary, "better", "organ")["p"])
    assert pd.isna(row(summary, "base", FOREGROUND)["p"])


def test_the_summary_counts_the_cases_behind_each_mean_and_the_empty_ones():
    table = long_table({"a": {"organ": [90, 80, 70], "lesion": [50, 0, NAN]}})
    lesion, distance = table["class"] == "lesion", table["unit"] != "%"
    table.loc[lesion & (table["case"] == "case_1"), "empty"] = "prediction"
    table.loc[lesion & distance & (table["case"] == "case_1"), "value"] = NAN
    table.loc[lesion & (table["case"] == "case_2"), "empty"] = "both"
    summary = summarize(table, ["a"], ["organ", "lesion"])
    dice, hd = row(summary, "a", "lesion"), row(summary, "a", "lesion", "95HD", "mm")
    assert (dice["n"], dice["n_cases"], dice["mean"]) == (2, 3, 25)  # the miss counts as 0
    assert (hd["n"], hd["mean"]) == (1, 50)  # and has no distance
    assert (hd["n_empty_both"], hd["n_empty_prediction"], hd["n_empty_reference"]) == (1, 1, 0)
    foreground = row(summary, "a", FOREGROUND, "95HD", "mm")
    assert (foreground["n"], foreground["n_max"], foreground["n_empty_prediction"]) == (1, 3, 1)


def test_a_case_validated_in_two_folds_is_one_observation():
    table = pd.concat([long_table({"a": {"organ": [80, 90]}}), long_table({"a": {"organ": [60]}}, fold="1")])
    dice = average_folds(table).query("metric == 'Dice'").set_index("case")["value"]
    assert dice.to_dict() == {"case_0": 70, "case_1": 90}
    assert row(summarize(table, ["a"], ["organ"]), "a", "organ")["n"] == 2


def test_trainers_with_different_cases_are_not_summarized():
    table = long_table({"a": {"organ": [80, 90]}, "b": {"organ": [80]}})
    with pytest.raises(ValueError, match="different cases"):
        summarize(table, ["a", "b"], ["organ"])


def test_who_misses_every_lesion_has_no_better_mean_distance():
    """Two trainers with equal distances where both have one; the second misses the lesions, which lie far off for the first."""
    table = long_table(
        {
            "finds": {"organ": [10, 12, 14], "lesion": [30, 20, 25]},
            "misses": {"organ": [10, 12, 14], "lesion": [0, 0, 0]},
        }
    )
    missed = (table["trainer"] == "misses") & (table["class"] == "lesion")
    table.loc[missed, "empty"] = "prediction"
    table.loc[missed & (table["unit"] != "%"), "value"] = NAN
    summary = summarize(table, ["finds", "misses"], ["organ", "lesion"])
    for trainer in ("finds", "misses"):
        assert np.isnan(row(summary, trainer, FOREGROUND, "95HD", "mm")["mean"])
        assert np.isnan(row(summary, trainer, FOREGROUND, "95HD", "mm")["ci_low"])
        assert row(summary, trainer, "organ", "95HD", "mm")["mean"] == 12
    assert row(summary, "misses", FOREGROUND, "95HD", "mm")["n_empty_prediction"] == 3
    assert row(summary, "misses", FOREGROUND)["mean"] == 6  # Dice counts a miss as 0


def test_who_finds_what_is_nowhere_has_a_mean_over_the_same_classes():
    """`finds` is better in the organ, and labels a lesion in one of seven cases, of which none shows one: Dice 0."""
    organ = [70, 72, 74, 76, 78, 80, 82]
    table = long_table(
        {
            "base": {"organ": organ, "lesion": [NAN] * 7},
            "finds": {"organ": [v + 10 + i for i, v in enumerate(organ)], "lesion": [0] + [NAN] * 6},
            "other": {"organ": organ, "lesion": [NAN] * 7},
        }
    )
    summary = summarize(table, ["base", "finds", "other"], ["organ", "lesion"])
    for trainer, mean in {"base": 76, "finds": 89, "other": 76}.items():
        foreground, of_organ = (row(summary, trainer, name) for name in (FOREGROUND, "organ"))
        assert foreground["mean"] == of_organ["mean"] == mean and foreground["n"] == foreground["n_max"] == 7
        assert foreground["ci_low"] == of_organ["ci_low"]
    tested = row(summary, "finds", FOREGROUND)
    assert (tested["mean_difference"], tested["n_pairs"], tested["n_unpaired"]) == (13, 7, 0) and tested["p"] < 0.05
    assert row(summary, "finds", "lesion")["mean"] == 0 and np.isnan(row(summary, "base", "lesion")["mean"])
    assert classes_of_some(table, ["base", "finds", "other"], ["organ", "lesion"]) == {"lesion": ["finds"]}
    alone = summarize(table[table["trainer"] == "finds"], ["finds"], ["organ", "lesion"])
    assert row(alone, "finds", FOREGROUND)["mean"] == 89 / 2  # nnU-Net's


def test_classes_that_no_trainer_shares_leave_no_foreground_mean():
    table = long_table({"a": {"organ": [90, 80], "lesion": [NAN] * 2}, "b": {"organ": [NAN] * 2, "lesion": [0, NAN]}})
    summary = summarize(table, ["a", "b"], ["organ", "lesion"])
    for trainer in "ab":
        found = row(summary, trainer, FOREGROUND)
        assert np.isnan([found["mean"], found["ci_low"]]).all() and found["n"] == found["n_max"] == 0


def test_distances_are_compared_on_common_cases():
    table = long_table({"a": {"organ": [10, 20, 90]}, "b": {"organ": [11, 21, 0]}})
    table.loc[(table["trainer"] == "b") & (table["case"] == "case_2") & (table["unit"] != "%"), "value"] = NAN
    summary = summarize(table, ["a", "b"], ["organ"])
    a, b = (row(summary, name, "organ", "ASSD", "mm") for name in "ab")
    assert (a["mean"], a["n"], b["mean"], b["n"]) == (15, 2, 16, 2)
    assert row(summary, "a", "organ")["mean"] == 40  # Dice: all three


def test_a_miss_in_one_of_the_folds_of_a_case_makes_no_distance_better():
    """Eight cases, each validated by two folds, far off in the second; `misses` finds nothing there."""
    near = long_table({"finds": {"organ": [5] * 8}, "misses": {"organ": [5] * 8}})
    far = long_table({"finds": {"organ": [25] * 8}, "misses": {"organ": [0] * 8}}, fold="1")
    missed = (far["trainer"] == "misses") & (far["unit"] != "%")
    far.loc[far["trainer"] == "misses", "empty"] = "prediction"
    far.loc[missed, "value"] = NAN
    table = pd.concat([near, far])
    for trainers in (["finds", "misses"], ["misses", "finds"]):
        summary = summarize(table, trainers, ["organ"])
        found, tests = (
            [row(summary, t, "organ", "95HD", "mm") for t in trainers],
            row(summary, trainers[1], "organ", "95HD", "mm"),
        )
        assert [r["mean"] for r in found] == [5, 5]
        assert (tests["median_difference"], tests["n_zero"], tests["n_unpaired"]) == (0, 8, 8)
        assert row(summary, "misses", "organ", "95HD", "mm")["n_empty_prediction"] == 8
        assert abs(row(summary, trainers[1], "organ")["median_difference"]) == 12.5  # Dice: 15 and 2.5


def test_a_third_trainer_does_not_change_a_test_of_two():
    table = long_table({"a": {"organ": [9] * 7}, "b": {"organ": [8, 7, 6, 5, 4, 3, 2]}, "c": {"organ": [1] * 7}})
    table.loc[(table["trainer"] == "c") & (table["unit"] != "%"), "value"] = NAN
    of_three, of_two = (
        row(summarize(table[table["trainer"].isin(names)], names, ["organ"]), "b", "organ", "ASSD", "mm")
        for names in (["a", "b", "c"], ["a", "b"])
    )
    assert of_three["p"] == of_two["p"] < 0.05
    assert np.isnan(of_three["mean"]) and of_two["mean"] == 5


def test_two_frames_of_a_heart_are_one_patient():
    rng = np.random.default_rng(5)
    of_patient = rng.normal(80, 5, (30, 1))
    twice = np.repeat(of_patient, 2, axis=0)
    patients = [f"p{i // 2:02d}" for i in range(60)]
    once = bootstrap_interval(of_patient)
    assert bootstrap_interval(twice, patients=patients) == pytest.approx(once)  # the second frame adds nothing
    low, high = bootstrap_interval(twice)
    assert high - low < 0.8 * (once[1] - once[0])  # as independent cases the interval would be too narrow
    gain = np.arange(1.0, 31.0)[:, None] * np.where(np.arange(30) % 3, 1, -1)[:, None]
    alone = signed_rank(of_patient + gain, of_patient)
    found = signed_rank(twice + np.repeat(gain, 2, axis=0), twice, patients)
    assert found["n_pairs"] == 30 and found["p"] == pytest.approx(alone["p"])
    assert found["median_difference"] == pytest.approx(alone["median_difference"])


def test_patients_of_unequal_size_weigh_as_their_cases_in_the_mean_and_once_in_the_test():
    matrix, reference = column(1, 1, 1, 5), column(0, 0, 0, 0)
    result = signed_rank(matrix, reference, ["a", "a", "a", "b"])
    assert (result["n_pairs"], result["mean_difference"]) == (2, 3)
    low, high = bootstrap_interval(matrix, patients=["a", "a", "a", "b"])
    assert (low, high) == (1, 5)


def test_the_summary_says_how_many_patients_there_are():
    table = long_table({"a": {"organ": [80, 90, 70]}})
    summary = summarize(table, ["a"], ["organ"], patients={"case_0": "p", "case_1": "p"})
    assert set(summary["n_patients"]) == {2} and set(summary["n_cases"]) == {3}
