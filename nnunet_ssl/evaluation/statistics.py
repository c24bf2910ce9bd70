"""Means with intervals, and paired tests against the first trainer.

Everything here works on the long table of `compare_cases.csv`: one row per trainer, fold, case, class, metric and unit, with
`value` (NaN where undefined) and `empty` (which mask is empty, see `nnunet_ssl.evaluation.metrics`).

The foreground mean is nnU-Net's: the mean over classes of the mean over cases. A test needs one number per case; there it is
the mean over classes of that case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_ssl.evaluation.metrics import BOTH_EMPTY, METRICS, PREDICTION_EMPTY, REFERENCE_EMPTY

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


def case_matrix(values: pd.DataFrame, trainer: str, metric: str, unit: str, classes: Sequence[str]) -> pd.DataFrame:
    """Rows: cases, sorted. Columns: classes. NaN where a value is undefined."""
    rows = values[(values["trainer"] == trainer) & (values["metric"] == metric) & (values["unit"] == unit)]
    return rows.pivot(index="case", columns="class", values="value")[list(classes)].sort_index()


def class_mean(matrix: np.ndarray) -> float:
    """Mean over the classes (columns) of the mean over cases (rows) of `(cases, classes)`; classes without a value are left out."""
    return float(_mean_without_nan(_mean_without_nan(matrix, axis=0), axis=0))


def bootstrap_interval(matrix: np.ndarray, seed: int = SEED) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `class_mean`, resampling cases.

    Args:
        matrix: `(cases, classes)`, NaN allowed. Cases without any value are left out first.

    Returns:
        Lower and upper bound; NaN with fewer than two cases.
    """
    matrix = matrix[~np.isnan(matrix).all(1)]
    if len(matrix) < 2:
        return float("nan"), float("nan")

    def statistic(index: np.ndarray, axis: int) -> np.ndarray:
        # index (resamples, cases) or, for the sample itself, (cases,)
        return _mean_without_nan(_mean_without_nan(matrix[index], axis=-2), axis=-1)

    interval = stats.bootstrap(
        (np.arange(len(matrix)),),
        statistic,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        batch=1000,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_test(matrix: np.ndarray, reference: np.ndarray) -> dict:
    """Wilcoxon signed-rank test, two-sided, on the case-wise mean over classes of two `(cases, classes)`, row by row.

    A case in which a class is defined on one side only (say, one trainer misses it and has no distance) has means of
    different things; it is dropped and counted as unpaired. Differences of zero carry no sign and are dropped too (Wilcoxon's
    own rule). The p value is scipy's `method="auto"`: exact up to 50 differences without ties and up to 13 with ties, else the
    normal approximation.

    Returns:
        n_pairs, n_unpaired, n_zero, mean_difference and median_difference (`matrix` minus `reference`, zeros included), p (NaN
        where not reported) and remark (why it is not, or how it was found).
    """
    defined, defined_reference = ~np.isnan(matrix), ~np.isnan(reference)
    same = (defined == defined_reference).all(1)
    paired = same & defined.any(1)
    difference = np.round(_mean_without_nan(matrix[paired] - reference[paired], axis=1), _DIGITS)
    nonzero = difference[difference != 0]
    result = {
        "n_pairs": len(difference),
        "n_unpaired": int((~same).sum()),
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


def summarize(cases: pd.DataFrame, trainers: Sequence[str], classes: Sequence[str], seed: int = SEED) -> pd.DataFrame:
    """One row per trainer, class (and the foreground mean) and metric.

    Columns: mean with ci_low and ci_high, standard deviation and median over cases; how many cases there are (`n_cases`), how many
    the mean rests on (`n`; for the foreground mean the fewest and the most of a class, `n` and `n_max`), and in how many
    predictions both masks, only the prediction or only the reference are empty; the paired test against the first trainer
    (empty for the first) with `p_holm`, Holm's correction over the trainers for the foreground mean.
    """
    values = average_folds(cases)
    empty = cases[(cases["metric"] == METRICS[0][0])].groupby(["trainer", "class", "empty"]).size()
    rows = []
    case_sets = {trainer: set(cases.loc[cases["trainer"] == trainer, "case"]) for trainer in trainers}
    if any(case_set != case_sets[trainers[0]] for case_set in case_sets.values()):
        raise ValueError("the trainers have results of different cases, so that they cannot be paired")
    for metric, unit in METRICS:
        matrices = {t: case_matrix(values, t, metric, unit, classes).to_numpy(float) for t in trainers}
        for trainer in trainers:
            matrix = matrices[trainer]
            for name in [FOREGROUND, *classes]:
                columns = list(range(len(classes))) if name == FOREGROUND else [list(classes).index(name)]
                part = matrix[:, columns]
                counts = (~np.isnan(part)).sum(0)
                per_case = _mean_without_nan(part, axis=1)
                observed = per_case[~np.isnan(per_case)]
                low, high = bootstrap_interval(part, seed)
                row = {
                    "trainer": trainer,
                    "class": name,
                    "metric": metric,
                    "unit": unit,
                    "mean": class_mean(part),
                    "ci_low": low,
                    "ci_high": high,
                    "std": float(observed.std(ddof=1)) if len(observed) > 1 else float("nan"),
                    "median": float(np.median(observed)) if len(observed) else float("nan"),
                    "n_cases": len(matrix),
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
                    row |= paired_test(part, matrices[trainers[0]][:, columns])
                rows.append(row)
    summary = pd.DataFrame(rows)
    summary["p_holm"] = np.nan
    if len(trainers) > 1:
        foreground = (summary["class"] == FOREGROUND) & (summary["trainer"] != trainers[0])
        for metric, unit in METRICS:
            family = summary.index[foreground & (summary["metric"] == metric) & (summary["unit"] == unit)]
            summary.loc[family, "p_holm"] = holm(summary.loc[family, "p"])
    return summary


def _mean_without_nan(array: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN, without numpy's warning, where nothing is left."""
    present = ~np.isnan(array)
    count = present.sum(axis)
    return np.divide(np.where(present, array, 0).sum(axis), count, out=np.full(count.shape, np.nan), where=count > 0)
