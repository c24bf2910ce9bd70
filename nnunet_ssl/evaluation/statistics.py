"""Means with intervals, and paired tests against the first trainer.

Everything here works on the long table of `compare_cases.csv`: one row per trainer, fold, case, class, metric and unit, with
`value` (NaN where undefined) and `empty` (which mask is empty, see `nnunet_ssl.evaluation.metrics`).

The foreground mean is nnU-Net's: the mean over classes of the mean over cases. A test needs one number per case; there it is
the mean over classes of that case.

A distance is undefined where a mask is empty, so a trainer that misses the difficult structures would have the better mean.
Means of distances are therefore over the cases in which all trainers have one, class by class and fold by fold, and there is no
foreground mean where a class has no such case. Dice is undefined where both masks are empty: a class that no reference shows
has a Dice for those trainers alone that find it somewhere. Such a class is in no trainer's foreground mean. What is defined for
one trainer alone is left out before folds are averaged: a case that several folds validate would else be compared with another
choice of folds.

Cases of one patient are not independent. Intervals resample patients, and a test has one difference per patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_ssl.evaluation.metrics import BOTH_EMPTY, DISTANCES, METRICS, OVERLAPS, PREDICTION_EMPTY, REFERENCE_EMPTY

FOREGROUND = "foreground mean"
CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 12345
# with fewer pairs no two-sided signed-rank test reaches p < 0.05 (5 pairs: 2 / 2^5 = 0.0625)
SMALLEST_SAMPLE = 6
# differences are rounded to this many digits, so that equal results differ by exactly 0 and equal ranks are recognized
_DIGITS = 10


def average_folds(cases: pd.DataFrame) -> pd.DataFrame:
    """One value per trainer, case, class and metric: the mean over the folds that contain the case.

    Folds may share validation cases; the values of one case are not independent observations.
    """
    keys = ["trainer", "case", "class", "metric", "unit"]
    return cases.groupby(keys, sort=False, as_index=False)["value"].mean()


def common_distances(cases: pd.DataFrame) -> pd.DataFrame:
    """The same rows; a distance is NaN where another trainer has none in this fold, case and class."""
    lacking = (
        cases["value"]
        .isna()
        .groupby([cases[key] for key in ("fold", "case", "class", "metric", "unit")])
        .transform("any")
    )
    distances = pd.MultiIndex.from_frame(cases[["metric", "unit"]]).isin(DISTANCES)
    return cases.assign(value=cases["value"].mask(lacking & distances))


def classes_of_some(cases: pd.DataFrame, trainers: Sequence[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """Classes that have a Dice for some of the trainers alone -> these. No reference shows them: they are found wrongly."""
    dice = cases[(cases["metric"] == METRICS[0][0]) & cases["value"].notna()]
    having = {
        name: [t for t in trainers if ((dice["class"] == name) & (dice["trainer"] == t)).any()] for name in classes
    }
    return {name: some for name, some in having.items() if 0 < len(some) < len(trainers)}


def case_matrix(values: pd.DataFrame, trainer: str, metric: str, unit: str, classes: Sequence[str]) -> pd.DataFrame:
    """Rows: cases, sorted. Columns: classes. NaN where a value is undefined. `values`: of `average_folds`."""
    rows = values[(values["trainer"] == trainer) & (values["metric"] == metric) & (values["unit"] == unit)]
    return rows.pivot(index="case", columns="class", values="value")[list(classes)].sort_index()


def fold_values(cases: pd.DataFrame, trainer: str, metric: str, unit: str, classes: Sequence[str]) -> np.ndarray:
    """`(cases, folds, classes)`, cases sorted; NaN where a value is undefined or a fold does not validate the case."""
    rows = cases[(cases["trainer"] == trainer) & (cases["metric"] == metric) & (cases["unit"] == unit)]
    folds = sorted(cases["fold"].unique())
    table = rows.pivot(index="case", columns=["fold", "class"], values="value").sort_index()
    columns = pd.MultiIndex.from_product([folds, classes], names=["fold", "class"])
    return table.reindex(columns=columns).to_numpy(float).reshape(len(table), len(folds), len(classes))


def case_differences(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of each case in the mean over classes, of two `(cases, folds, classes)`.

    A fold of a case in which a class is defined on one side only (say, one trainer misses it and has no distance) has means of
    different things and is left out.

    Returns:
        `(cases,)` `values` minus `reference`, mean over the other folds, NaN where there is none; and `(cases,)` bool, where a fold
        was left out.
    """
    defined = ~np.isnan(values)
    same = (defined == ~np.isnan(reference)).all(2)
    of_folds = np.where(same, _mean_without_nan(values - reference, axis=2), np.nan)
    return _mean_without_nan(of_folds, axis=1), ~same.all(1)


def class_mean(matrix: np.ndarray) -> float:
    """Mean over the classes (columns) of the mean over cases (rows) of `(cases, classes)`; classes without a value are left out."""
    return float(_mean_without_nan(_mean_without_nan(matrix, axis=0), axis=0))


def resamples(number: int, seed: int = SEED) -> np.ndarray:
    """`(RESAMPLES, number)`: how often each of `number` units is in each resample of them."""
    return np.random.default_rng(seed).multinomial(number, [1 / number] * number, RESAMPLES)


def bootstrap_interval(
    matrix: np.ndarray, seed: int = SEED, patients: Sequence[str] | None = None
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `class_mean`, resampling patients with all of their cases.

    A resample without any patient of a class (one that few show) is left out: its mean would be over other classes.

    Args:
        matrix: `(cases, classes)`, NaN allowed. Cases without any value are left out first.
        patients: of each case; None: every case is a patient of its own.

    Returns:
        Lower and upper bound; NaN where a class that has values has them in fewer than two patients.
    """
    matrix = matrix[:, ~np.isnan(matrix).all(0)]
    present = ~np.isnan(matrix).all(1)
    index = np.unique(_patient_index(len(matrix), patients)[present], return_inverse=True)[1]
    number = len(np.unique(index))
    defined = ~np.isnan(matrix[present])
    sums, counts = np.zeros((2, number, matrix.shape[1]))
    np.add.at(sums, index, np.where(defined, matrix[present], 0))
    np.add.at(counts, index, defined)
    if number < 2 or ((counts > 0).sum(0) < 2).any():
        return float("nan"), float("nan")
    drawn = resamples(number, seed)
    totals, numbers = drawn @ sums, drawn @ counts
    complete = (numbers > 0).all(1)
    tails = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
    low, high = np.percentile((totals[complete] / numbers[complete]).mean(1), tails)
    return float(low), float(high)


def paired_test(values: np.ndarray, reference: np.ndarray, patients: Sequence[str] | None = None) -> dict:
    """Wilcoxon signed-rank test, two-sided, on `case_differences` of two `(cases, folds, classes)`.

    One difference per patient: the mean over the cases of that patient (`patients` of each case; None: every case is a patient of
    its own).

    Cases with a fold in which a class is defined on one side only are counted as unpaired. Differences of zero carry no sign and
    are dropped (Wilcoxon's own rule). The p value is scipy's `method="auto"`: exact up to 50 differences without ties and up to 13
    with ties, else the normal approximation.

    Returns:
        n_pairs (patients), n_unpaired (cases), n_zero, mean_difference and median_difference (`values` minus `reference`, zeros
        included), p (NaN where not reported) and remark (why it is not, or how it was found).
    """
    of_cases, unpaired = case_differences(values, reference)
    paired = ~np.isnan(of_cases)
    index = _patient_index(len(of_cases), patients)[paired]
    difference = np.round([of_cases[paired][index == patient].mean() for patient in np.unique(index)], _DIGITS)
    nonzero = difference[difference != 0]
    result = {
        "n_pairs": len(difference),
        "n_unpaired": int(unpaired.sum()),
        "n_zero": len(difference) - len(nonzero),
        "mean_difference": float(difference.mean()) if len(difference) else float("nan"),
        "median_difference": float(np.median(difference)) if len(difference) else float("nan"),
        "p": float("nan"),
        "remark": "",
    }
    if len(nonzero) < SMALLEST_SAMPLE:
        result["remark"] = f"not tested: {len(nonzero)} pairs differ, {SMALLEST_SAMPLE} are needed"
        return result
    result["p"] = float(stats.wilcoxon(nonzero).pvalue)
    tied = len(np.unique(np.abs(nonzero))) < len(nonzero)
    if len(nonzero) > 50 or (tied and len(nonzero) > 13):
        result["remark"] = "normal approximation"
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of Holm's step-down procedure, in the given order. NaN (not tested) does not count as a test."""
    p = np.asarray(p_values, float)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    largest = 0.0
    for rank, index in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        largest = max(largest, min(1.0, (len(tested) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def summarize(
    cases: pd.DataFrame,
    trainers: Sequence[str],
    classes: Sequence[str],
    seed: int = SEED,
    patients: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per trainer, class (and the foreground mean) and metric.

    Columns: mean with ci_low and ci_high, standard deviation and median over cases; how many cases and patients there are
    (`n_cases`, `n_patients`), how many cases the mean rests on (`n`; for the foreground mean the fewest and the most of a class,
    `n` and `n_max`), and in how many predictions both masks, only the prediction or only the reference are empty; the paired test
    against the first trainer (empty for the first) with `p_holm`, Holm's correction over the trainers for the foreground mean.

    Args:
        patients: case -> patient; cases that are not named are patients of their own.
    """
    values = average_folds(common_distances(cases))
    empty = cases[(cases["metric"] == METRICS[0][0])].groupby(["trainer", "class", "empty"]).size()
    rows = []
    case_sets = {trainer: set(cases.loc[cases["trainer"] == trainer, "case"]) for trainer in trainers}
    if any(case_set != case_sets[trainers[0]] for case_set in case_sets.values()):
        raise ValueError("the trainers have results of different cases, so that they cannot be paired")
    for metric, unit in METRICS:
        tables = {t: case_matrix(values, t, metric, unit, classes) for t in trainers}
        patient_of = [(patients or {}).get(case, case) for case in tables[trainers[0]].index]
        by_fold = {t: fold_values(cases, t, metric, unit, classes) for t in trainers}
        has = {t: tables[t].notna().any().to_numpy() for t in trainers}
        for trainer in trainers:
            matrix = tables[trainer].to_numpy(float)
            for name in [FOREGROUND, *classes]:
                columns = list(range(len(classes))) if name == FOREGROUND else [list(classes).index(name)]
                compared = columns  # of the test against the first trainer
                if name == FOREGROUND and (metric, unit) in OVERLAPS:
                    columns = [i for i in columns if len({bool(found[i]) for found in has.values()}) == 1]
                    compared = [i for i in compared if has[trainer][i] == has[trainers[0]][i]]
                part = matrix[:, columns]
                counts = (~np.isnan(part)).sum(0) if columns else np.zeros(1, int)
                per_case = _mean_without_nan(part, axis=1)
                observed = per_case[~np.isnan(per_case)]
                # a mean over fewer classes is no foreground mean: the class left out may be the difficult one
                lacking = (metric, unit) in DISTANCES and counts.min() == 0
                low, high = (np.nan, np.nan) if lacking else bootstrap_interval(part, seed, patient_of)
                row = {
                    "trainer": trainer,
                    "class": name,
                    "metric": metric,
                    "unit": unit,
                    "mean": float("nan") if lacking else class_mean(part),
                    "ci_low": low,
                    "ci_high": high,
                    "std": float(observed.std(ddof=1)) if len(observed) > 1 else float("nan"),
                    "median": float(np.median(observed)) if len(observed) else float("nan"),
                    "n_cases": len(matrix),
                    "n_patients": len(set(patient_of)),
                    "n": int(counts.min()),
                    "n_max": int(counts.max()),
                }
                names = classes if name == FOREGROUND else [name]
                for which, key in (
                    (BOTH_EMPTY, "both"),
                    (PREDICTION_EMPTY, "prediction"),
                    (REFERENCE_EMPTY, "reference"),
                ):
                    row[f"n_empty_{key}"] = int(sum(empty.get((trainer, n, which), 0) for n in names))
                if trainer != trainers[0]:
                    row |= {"compared_with": trainers[0]}
                    row |= paired_test(by_fold[trainer][..., compared], by_fold[trainers[0]][..., compared], patient_of)
                rows.append(row)
    summary = pd.DataFrame(rows)
    summary["p_holm"] = np.nan
    if len(trainers) > 1:
        foreground = (summary["class"] == FOREGROUND) & (summary["trainer"] != trainers[0])
        for metric, unit in METRICS:
            family = summary.index[foreground & (summary["metric"] == metric) & (summary["unit"] == unit)]
            summary.loc[family, "p_holm"] = holm(summary.loc[family, "p"])
    return summary


def _patient_index(number: int, patients: Sequence[str] | None) -> np.ndarray:
    """A number for the patient of each case."""
    return np.arange(number) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]


def _mean_without_nan(array: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN, without numpy's warning, where nothing is left."""
    present = ~np.isnan(array)
    count = present.sum(axis)
    return np.divide(np.where(present, array, 0).sum(axis), count, out=np.full(count.shape, np.nan), where=count > 0)
