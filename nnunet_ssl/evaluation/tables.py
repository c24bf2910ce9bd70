"""The Markdown report and the two CSV files of `nnunet_ssl compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_ssl.evaluation.metrics import METRICS
from nnunet_ssl.evaluation.runs import Run
from nnunet_ssl.evaluation.statistics import FOREGROUND, RESAMPLES, SEED, SMALLEST_SAMPLE

CASE_COLUMNS = ["trainer", "fold", "case", "class", "metric", "unit", "value", "empty"]

_DEFINITIONS = """\
Dice = 2 TP / (2 TP + FP + FN) and Jaccard = TP / (TP + FP + FN), counted in voxels.

Distances as in `medpy.metric.binary`, between the surface voxels of both masks (those that one erosion with the face neighbors
removes), in mm and in voxels (spacing 1), the unit of most publications. 95HD (`hd95`): 95th percentile of the distances of both
directions pooled. ASD (`asd(prediction, reference)`): mean distance from prediction to reference, directed. ASSD (`assd` of medpy
0.5): mean of the distances of both directions pooled. A volume of one slice is measured in 2D; in 3D it would be all surface. Of
images that say no spacing (PNG) mm are voxels.

Both masks empty: Dice and Jaccard are undefined and left out, as in nnU-Net. One mask empty: Dice and Jaccard are 0, distances
are undefined; such predictions are counted as *missed* (prediction empty) or *false* (reference empty). Means of distances are
over the cases in which every trainer of this comparison has one, class by class, so that a trainer gains nothing by missing what
is difficult; where a class has no such case there is no foreground mean of distances (-). A class that no reference shows, and
that not every trainer finds somewhere, is in no foreground mean of Dice and Jaccard, or trainers would have means of different
classes.

Elsewhere the same names mean other numbers. 95HD: MONAI takes the larger of the two directed percentiles; `surface-distance`
(google-deepmind) and `pymia` do so too, between corners of voxels and weighted by the area of each surface element. Average
distance: that of `surface-distance` is weighted by area and given per direction; `AVGDIST` of `pymia` is SimpleITK's average
Hausdorff distance, over all voxels of the masks, with 0 where they overlap; `assd` of medpy 0.4 is the mean of two directed means.
Volumes of one slice: medpy measures them in 3D, where every voxel of the mask is surface. Empty masks: `pymia` has Dice 1 where
both are empty and an infinite 95HD where one is; some public evaluation code takes distance 0, which flatters a method that misses
structures."""


@dataclass(frozen=True)
class Head:
    """What was compared, as the first lines of the report say it."""

    dataset: str
    configuration: str
    plans: str
    folds: Sequence[int | str]
    test: bool
    num_cases: int
    num_patients: int
    split_hashes: dict[int | str, str]
    evidence: dict[tuple[str, int | str], str]  # (trainer, fold) -> what of the split was verified
    notes: Sequence[str]
    prediction: str  # how the predictions were made


def case_table(cases: pd.DataFrame) -> pd.DataFrame:
    """Columns of `compare_cases.csv` in their order."""
    return cases[CASE_COLUMNS]


def markdown(head: Head, runs: Sequence[Run], summary: pd.DataFrame, trainers: Sequence[str]) -> str:
    """The whole report. `summary` as `nnunet_ssl.evaluation.statistics.summarize` makes it."""
    folds = ", ".join(map(str, head.folds))
    classes = [name for name in summary["class"].unique() if name != FOREGROUND]
    # of a single class the foreground mean tells everything
    headings = {FOREGROUND: FOREGROUND} | {name: name for name in classes}
    if len(classes) == 1:
        headings = {FOREGROUND: f"{FOREGROUND} = {classes[0]}"}
    parts = [
        f"# Comparison of {', '.join(trainers)}",
        markdown_table(
            ["", ""],
            [
                ["data set", head.dataset],
                ["configuration", head.configuration],
                ["plans", head.plans],
                ["folds", folds],
                ["test", "yes: imagesTs against labelsTs" if head.test else "no: validation cases of the folds"],
                ["predictions", head.prediction],
                ["cases", _cases_text(head)],
                ["classes", ", ".join(classes)],
                ["split hash", ", ".join(f"fold {fold}: {text}" for fold, text in head.split_hashes.items())],
            ],
        ),
        *(f"**Note.** {note}" for note in head.notes),
        "## Runs",
        markdown_table(
            [
                "trainer",
                "fold",
                "epochs",
                "iterations per epoch",
                "seed",
                "labeled",
                "unlabeled",
                "split verified by",
            ],
            [_run_row(run, head.evidence.get((run.trainer, run.fold), "")) for run in runs],
        ),
        "## Means",
        "Mean over cases [95 % bootstrap interval over patients] (number of cases the mean rests on). The foreground mean is the "
        "mean over classes of these means. *missed* and *false*: predictions without a distance because the prediction or the "
        "reference is empty; *both empty*: predictions that enter no mean. Distances are compared on common cases, see below.",
        *(f"### {text}\n\n{_mean_table(summary, name, trainers)}" for name, text in headings.items()),
    ]
    if len(trainers) > 1:
        parts += [
            f"## Paired tests against {trainers[0]}",
            "Median over patients of the difference, trainer minus "
            f"{trainers[0]}; two-sided Wilcoxon signed-rank test; (patients; cases dropped because only one side is defined, if "
            "any). A patient with several cases enters with the mean of its differences. "
            "Differences of zero enter the median but not the test. "
            f"No p is given (-) where fewer than {SMALLEST_SAMPLE} patients differ. Holm: corrected over the trainers for the "
            "foreground mean; the other p values are not corrected for multiple testing. ~: normal approximation.",
            *(f"### {trainer}\n\n{_test_table(summary, trainer, headings)}" for trainer in trainers[1:]),
        ]
    parts += [
        "## Definitions",
        _DEFINITIONS,
        f"Intervals: percentile bootstrap, {RESAMPLES} resamples, seed {SEED}. What is resampled are patients, each with all "
        "of its cases (key groups of unlabeled.json or dataset.json; a case without one is a patient of its own). Resamples "
        "without any patient of a class are left out, and there is no interval where a class has one patient. They describe "
        "the choice of patients, not that of the split or of the seed of a training. With few patients they are too narrow: of ten "
        "patients, nine of ten such intervals hold the true mean, or fewer; of five, eight or fewer. A case that several folds "
        "validate enters once, with its mean.",
    ]
    return "\n\n".join(parts) + "\n"


def write_reports(folder: Path, text: str, cases: pd.DataFrame, summary: pd.DataFrame) -> None:
    """`compare.md`, `compare_cases.csv` and `compare_summary.csv`."""
    (folder / "compare.md").write_text(text, encoding="utf-8")
    case_table(cases).to_csv(folder / "compare_cases.csv", index=False)
    summary.to_csv(folder / "compare_summary.csv", index=False)


def _cases_text(head: Head) -> str:
    same = head.num_patients == head.num_cases
    return f"{head.num_cases}" + (", each a patient of its own" if same else f" of {head.num_patients} patients")


def _run_row(run: Run, evidence: str) -> list[str]:
    labeled = len(run.split["train"]) if run.split else run.logged_counts[-1][0] if run.logged_counts else None
    numbers = [run.epochs, run.iterations_per_epoch, run.seed, labeled, run.num_unlabeled]
    return [run.trainer, str(run.fold), *("-" if number is None else str(number) for number in numbers), evidence]


def _mean_table(summary: pd.DataFrame, name: str, trainers: Sequence[str]) -> str:
    rows = []
    for trainer in trainers:
        part = summary[(summary["trainer"] == trainer) & (summary["class"] == name)].set_index(["metric", "unit"])
        counts = part.iloc[0]
        rows.append(
            [
                trainer,
                *(_mean_cell(part.loc[key], key[1]) for key in METRICS),
                *(str(counts[f"n_empty_{which}"]) for which in ("prediction", "reference", "both")),
            ]
        )
    header = ["trainer", *(f"{metric} ({unit})" for metric, unit in METRICS), "missed", "false", "both empty"]
    return markdown_table(header, rows)


def _mean_cell(row: pd.Series, unit: str) -> str:
    number = f"{row['n']}" if row["n"] == row["n_max"] else f"{row['n']}-{row['n_max']}"
    if np.isnan(row["mean"]):
        return f"- ({number})"
    digits = 2
    interval = "" if np.isnan(row["ci_low"]) else f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return f"{row['mean']:.{digits}f}{interval} ({number})"


def _test_table(summary: pd.DataFrame, trainer: str, headings: Mapping[str, str]) -> str:
    rows = []
    for name, text in headings.items():
        part = summary[(summary["trainer"] == trainer) & (summary["class"] == name)].set_index(["metric", "unit"])
        rows.append([text, *(_test_cell(part.loc[key]) for key in METRICS)])
    return markdown_table(["class", *(f"{metric} ({unit})" for metric, unit in METRICS)], rows)


def _test_cell(row: pd.Series) -> str:
    pairs = f"{int(row['n_pairs'])}" + (f"; {int(row['n_unpaired'])} dropped" if row["n_unpaired"] else "")
    if row["n_pairs"] == 0:
        return f"- ({pairs})"
    p = "-" if np.isnan(row["p"]) else ("~" if row["remark"] else "") + _p_text(row["p"])
    corrected = "" if np.isnan(row["p_holm"]) else f", Holm {_p_text(row['p_holm'])}"
    return f"{row['median_difference']:+.2f}, p {p}{corrected} ({pairs})"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table with columns of equal width, so that it is also legible as text."""
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)
