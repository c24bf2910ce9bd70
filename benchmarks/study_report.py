"""Pages and figures of the studies, from the recorded rows in docs/studies alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.studies import STUDIES, Study
from benchmarks.study_passes import relative_passes
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import statistics
from nnunet_ssl.evaluation.tables import markdown_table
from tests.helpers.paths import REPOSITORY

FOLDER = REPOSITORY / "docs" / "studies"
KEY = ["data", "row", "seed"]  # which run
CELLS = [*KEY, "patient", "case", "class", "Dice", "95HD"]  # %, mm
RUNS = [
    *KEY,
    "steps",
    "step_seconds",
    "step_cpu_seconds",
    "epoch_seconds",
    "peak_memory_MiB",
    "device",
    "precision",
    "date",
    "version",
]
SMALLEST_HEAD_ROOM = 5  # Dice; below it, differences of seeds are as large as what there is to gain
OTHER_PRECISION = "†"
DETAILS = ("parts", "variants")  # groups of rows that are on the page of their study alone
ALL = "all"  # instead of a study: the table of all of them
_BLOCK = re.compile(r"(<!-- study:([^\s>]+)(?: rows: ([^>]*?))? -->\n).*?(<!-- /study -->)", re.DOTALL)


def records_file(records: str, part: str = "") -> Path:
    return FOLDER / f"{records}{part}.csv"


def read_records(records: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values of the cases, and runs. Without rows where nothing is recorded."""
    found = []
    for part, columns in (("", CELLS), ("_runs", RUNS)):
        file = records_file(records, part)
        table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=columns)
        if list(table.columns) != columns:
            raise UserError(f"{file} has the columns {', '.join(table.columns)}; expected are {', '.join(columns)}.")
        found.append(table)
    return found[0], found[1]


@dataclass(frozen=True)
class Estimate:
    """A number, and its 95 % interval over resampled patients and seeds (NaN with one patient)."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 1, sign: str = "+") -> str:
        if np.isnan(self.value):
            return "-"
        interval = "" if np.isnan(self.low) else f" [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"
        return f"{self.value:{sign}.{digits}f}{interval}"


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds in brackets, for what rests on others than the figure beside it."""
    return f"(seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"


class Results:
    """The recorded rows of one study.

    Means are over classes of the means over cases, as nnU-Net's. A difference of two rows is of equal seeds. Its interval resamples
    patients, each with all of its cases, and, where there are several, seeds; both rows get the same ones.
    """

    def __init__(self, study: Study):
        self.study = study
        cells, runs = zip(*(read_records(name) for name in dict.fromkeys(row.pack.records for row in study.rows)))
        self.cells = {row.key: self._of(pd.concat(cells), row) for row in study.rows}
        self.runs = {row.key: self._of(pd.concat(runs), row) for row in study.rows}
        self.rows = [row for row in study.rows if len(self.cells[row.key])]
        everything = pd.concat(cells)
        found = everything[everything["95HD"].notna() | (everything["Dice"] > 0)]
        self.there = set(zip(found["case"], found["class"]))  # in the reference, since a run has met it
        absent = everything[everything["Dice"].isna()]
        self.absent = set(zip(absent["case"], absent["class"]))
        recorded = pd.concat(list(self.cells.values()))
        self.classes = list(recorded["class"].unique())
        self.patients = sorted(recorded["patient"].unique())
        self.num_cases = recorded["case"].nunique()
        for row in self.rows:
            for seed, run in self.cells[row.key].groupby("seed"):
                if (found := run["case"].nunique()) != self.num_cases:
                    raise UserError(f"{study.name}: row {row.key}, seed {seed}, has {found} of {self.num_cases} cases.")

    @staticmethod
    def _of(table: pd.DataFrame, row) -> pd.DataFrame:
        return table[(table["data"] == row.pack.name) & (table["row"] == row.key)]

    def seeds(self, *keys: str) -> list[int]:
        """Seeds that all of these rows have."""
        return sorted(set.intersection(*(set(self.cells[key]["seed"]) for key in keys)))

    def matrix(self, key: str, seed: int, metric: str = "Dice") -> pd.DataFrame:
        """`(cases, classes)`; the index is (patient, case)."""
        cells = self.cells[key]
        of_seed = cells[cells["seed"] == seed]
        return of_seed.pivot(index=["patient", "case"], columns="class", values=metric)[self.classes].sort_index()

    @cached_property
    def draws(self) -> np.ndarray:
        """`(1 + resamples, patients)`: how often each patient is in a resample; the first is the sample itself."""
        number = len(self.patients)
        return np.concatenate([np.ones((1, number)), statistics.resamples(number)])

    def means(self, key: str, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
        """`(1 + resamples,)`: the mean over classes (all if none is named) of a run, in every resample of the patients."""
        of_patient = self.matrix(key, seed)[list(classes) or self.classes].groupby("patient")
        sums, counts = (part.reindex(self.patients).to_numpy(float) for part in (of_patient.sum(), of_patient.count()))
        there = counts.any(0)
        with np.errstate(invalid="ignore"):  # no patient of a class: NaN, or the mean would be over other classes
            return (self.draws @ sums[:, there] / (self.draws @ counts[:, there])).mean(1)

    def differences(self, key: str, other: str, seeds: Sequence[int], classes: Sequence[str] = ()) -> np.ndarray:
        """`(1 + resamples,)`: mean over seeds of one row minus the other, in every resample of patients and seeds."""
        of_seed = np.stack(
            [self.means(key, seed, classes) - self.means(other, seed, classes) for seed in seeds], axis=1
        )
        number = len(seeds)
        drawn = statistics.resamples(number, statistics.SEED + 1)
        return (of_seed * np.concatenate([np.ones((1, number)), drawn])).sum(1) / number

    def estimate(self, resamples: np.ndarray) -> Estimate:
        tails = 50 * (1 - statistics.CONFIDENCE), 50 * (1 + statistics.CONFIDENCE)
        low, high = np.nanpercentile(resamples[1:], tails) if len(self.patients) > 1 else (np.nan, np.nan)
        return Estimate(float(resamples[0]), float(low), float(high))

    def baseline_of(self, key: str) -> str:
        """Key of the row that a row is compared with."""
        return self.study.row(key).baseline or self.study.baseline

    def row_minus(self, key: str, other: str, classes: Sequence[str] = ()) -> Estimate:
        """Dice (mean over the named classes, or all) of a row minus that of another one, of the seeds that both have."""
        seeds = self.seeds(key, other)
        return self.estimate(self.differences(key, other, seeds, classes)) if seeds and key != other else UNKNOWN

    def difference(self, key: str) -> Estimate:
        """Dice of a row minus that of its baseline."""
        return self.row_minus(key, self.baseline_of(key))

    def precisions_differ(self, key: str, other: str) -> bool:
        """In a seed that both rows have."""
        one, two = (self.runs[k].set_index("seed")["precision"] for k in (key, other))
        return any(one[seed] != two[seed] for seed in self.seeds(key, other))

    def difference_text(self, key: str) -> str:
        """The difference, with a mark where precisions differ, with the row that it is to where that is not the study's, and with
        its seeds where the Dice beside it has others."""
        to, text = self.baseline_of(key), self.difference(key).text()
        if text == "-":
            return text
        named = "" if to == self.study.baseline else f" to {to}"
        seeds = self.seeds(key, to)
        if seeds != self.seeds(key):
            named += f" {seeds_text(seeds)}"
        return f"{text}{OTHER_PRECISION * self.precisions_differ(key, to)}{named}"

    def own_minus_text(self, key: str) -> str:
        """The study's own method minus a row that is another way to the same end: a control, a method, a round."""
        own, row = self.study.own, self.study.row(key)
        baseline = self.study.baseline
        if own not in self.cells or row.group == "head-room" or key == baseline or self.baseline_of(key) != baseline:
            return "-"
        text = self.row_minus(own, key).text()
        return text if text == "-" else text + OTHER_PRECISION * self.precisions_differ(own, key)

    @cached_property
    def head_room(self) -> Estimate:
        return self.difference(self.study.upper)

    def head_room_text(self) -> str:
        """The head-room without a sign, with a mark where precisions differ."""
        text = self.head_room.text(sign="")
        return (
            text
            if text == "-"
            else text + OTHER_PRECISION * self.precisions_differ(self.study.upper, self.study.baseline)
        )

    @property
    def has_page(self) -> bool:
        """Without the baseline there is nothing to compare with."""
        return bool(self.seeds(self.study.baseline))

    @property
    def has_head_room(self) -> bool:
        return self.head_room.value >= SMALLEST_HEAD_ROOM

    def share(self, key: str) -> Estimate:
        """Difference to the baseline in % of the head-room, of the seeds that the three rows have."""
        baseline, upper = self.study.baseline, self.study.upper
        seeds = self.seeds(key, baseline, upper)
        if not (seeds and self.has_head_room) or key in (baseline, upper) or self.baseline_of(key) != baseline:
            return UNKNOWN
        return self.estimate(100 * self.differences(key, baseline, seeds) / self.differences(upper, baseline, seeds))

    def share_text(self, key: str) -> str:
        """The share, with its seeds where the difference beside it has others."""
        seeds, text = self.seeds(key, self.study.baseline, self.study.upper), self.share(key).text(0)
        if text == "-" or seeds == self.seeds(key, self.study.baseline):
            return text
        return f"{text} {seeds_text(seeds)}"

    def of_patients(self, key: str) -> pd.Series:
        """Mean difference of each patient to the row's baseline, over seeds, cases and classes. Empty where there is none."""
        to = self.baseline_of(key)
        seeds = self.seeds(key, to)
        if not seeds or key == to:
            return pd.Series(dtype=float)
        differences = sum(self.matrix(key, seed) - self.matrix(to, seed) for seed in seeds) / len(seeds)
        return differences.mean(axis=1).groupby("patient").mean().round(6)

    def patients_better(self, key: str) -> str:
        """Patients with a higher and with a lower mean Dice than the baseline."""
        differences = self.of_patients(key)
        return f"{(differences > 0).sum()} / {(differences < 0).sum()}" if len(differences) else "-"

    def median_text(self, key: str) -> str:
        """Difference of the median patient, which one patient alone does not move."""
        differences = self.of_patients(key)
        return f"{differences.median():+.1f}" if len(differences) else "-"

    def mean(self, key: str, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """`(classes,)`: mean over seeds (all of the row) of the mean over cases that have a value."""
        return np.mean([self.matrix(key, seed, metric).mean() for seed in seeds or self.seeds(key)], axis=0)

    def distance_text(self, key: str) -> str:
        """95HD, mean over classes of the mean over cells (case and seed) that the row and its baseline have; that of the baseline
        on the same cells in brackets."""
        to = self.baseline_of(key)
        seeds = self.seeds(key, to)
        if not seeds:
            return "-"
        own, others = (pd.concat([self.matrix(k, seed, "95HD") for seed in seeds], keys=seeds) for k in (key, to))
        common = own.notna() & others.notna()
        values = [table.where(common).mean().mean() for table in (own, others)]
        if np.isnan(values[0]):
            return "-"
        return f"{values[0]:.1f}" if key == to else f"{values[0]:.1f} ({values[1]:.1f})"

    def missed(self, key: str) -> str:
        """Classes of a case that the reference has and the prediction has not, per run.

        Without a voxel in the prediction, or in the reference, a cell has Dice 0 and no distance. Which of the two it is, another
        run tells: one that met the class in this case, or one that found both empty (no Dice). A range where none tells.
        """
        cells = self.cells[key]
        empty = cells[(cells["Dice"] == 0) & cells["95HD"].isna()]
        places = list(zip(empty["case"], empty["class"]))
        missed = sum(place in self.there for place in places)
        unknown = sum(place not in self.there | self.absent for place in places)
        low, high = (f"{number / len(self.seeds(key)):.3g}" for number in (missed, missed + unknown))
        return low if low == high else f"{low} to {high}"

    def precisions(self) -> str:
        """How many runs computed in which precision."""
        numbers = pd.concat(list(self.runs.values()))["precision"].value_counts(sort=False)
        return ", ".join(f"{number} in {precision}" for precision, number in sorted(numbers.items()))


# --------------------------------------------------------------------------------------------------------------- pages

PRECISION_NOTE = (
    f"{OTHER_PRECISION}: the two rows were computed in different precision with at least one of the seeds. A share of the "
    "head-room has the marks of its two differences."
)


def head_room_text(results: Results) -> str:
    """What there is to gain, in a sentence. The first thing that a page says."""
    study = results.study
    seeds = results.seeds(study.baseline, study.upper)
    if not seeds:
        return f"**Head-room**: not known, {study.baseline} and {study.upper} are not recorded with the same seed."
    low, high = (np.mean(results.mean(key, "Dice", seeds)) for key in (study.baseline, study.upper))
    text = (
        f"**Head-room**: {results.head_room_text()} Dice, from {low:.1f} ({study.baseline}) to {high:.1f} ({study.upper}), "
        f"seeds {', '.join(map(str, seeds))}."
    )
    if not results.has_head_room:
        text += f" **Below {SMALLEST_HEAD_ROOM} Dice: this pack cannot tell methods apart**, and shares of it are not given."
    return text


def steps_of(results: Results, key: str) -> str:
    """Optimizer steps of the runs of a row."""
    return ", ".join(map(str, results.runs[key]["steps"].unique()))


def main_table(results: Results) -> str:
    own = results.study.own
    against = {row.key: results.own_minus_text(row.key) for row in results.rows}
    header = ["row", "seeds", "steps", "passes", *(f"Dice {name}" for name in results.classes), "Dice", "difference"]
    header += ["median patient", "patients better / worse", "share of the head-room, %"]
    header += [f"{own} minus this row"] if set(against.values()) != {"-"} else []
    header += ["95HD, mm (baseline)", "missed"]
    lines = []
    for row in results.rows:
        dice = results.mean(row.key, "Dice")
        lines.append(
            [
                row.key,
                ", ".join(map(str, results.seeds(row.key))),
                steps_of(results, row.key),
                relative_passes(results.study, row),
                *(f"{value:.1f}" for value in dice),
                f"{np.mean(dice):.1f}",
                results.difference_text(row.key),
                results.median_text(row.key),
                results.patients_better(row.key),
                results.share_text(row.key),
                *([against[row.key]] if set(against.values()) != {"-"} else []),
                results.distance_text(row.key),
                results.missed(row.key),
            ]
        )
    return markdown_table(header, lines)


def class_table(results: Results) -> str:
    """Differences of every class, of rows with several seeds; "" where there is one class or no such row."""
    lines = []
    for row in results.rows:
        other = results.baseline_of(row.key)
        seeds = results.seeds(row.key, other) if other in results.runs else []
        if row.key != other and len(seeds) > 1:
            of_class = [results.row_minus(row.key, other, [name]).text() for name in results.classes]
            lines.append([row.key, other, ", ".join(map(str, seeds)), *of_class])
    if len(results.classes) < 2 or not lines:
        return ""
    text = "**Classes.** Difference [95 % interval] in Dice, of rows with several seeds, made as the difference above."
    return f"{text}\n\n{markdown_table(['row', 'compared with', 'seeds', *results.classes], lines)}"


def short_table(results: Results, keys: Sequence[str] | None = None) -> str:
    """For other pages: Dice, difference and share of some rows; by default of all that a user can choose between."""
    unknown = [key for key in keys or () if key not in [row.key for row in results.study.rows]]
    if unknown:
        raise UserError(f"{results.study.name} has no row {unknown[0]}: {', '.join(r.key for r in results.study.rows)}")
    lines = [
        [
            row.key,
            str(len(results.seeds(row.key))),
            relative_passes(results.study, row),
            f"{np.mean(results.mean(row.key, 'Dice')):.1f}",
            results.difference_text(row.key),
            results.median_text(row.key),
            results.share_text(row.key),
        ]
        for row in results.rows
        if (row.group not in DETAILS if keys is None else row.key in keys)
    ]
    header = ["row", "seeds", "passes", "Dice", "difference [95 %]", "of the median patient"]
    table = markdown_table([*header, "share of the head-room, % [95 %]"], lines)
    text = f"{head_room_text(results)}\n\n{table}"
    return f"{text}\n\n{PRECISION_NOTE}" if OTHER_PRECISION in text else text


def overview(all_results: Mapping[str, Results]) -> str:
    """One line per study."""
    lines = []
    for name, results in all_results.items():
        share = "" if results.has_head_room or np.isnan(results.head_room.value) else " (too small)"
        page = f"[{results.study.title}]({name}.md)" if results.has_page else results.study.title
        count = f"{len(results.rows)} of {len(results.study.rows)}"
        lines.append([page, results.head_room_text() + share, count])
    table = markdown_table(["study", "head-room, Dice [95 %]", "rows recorded"], lines)
    return f"{table}\n\n{PRECISION_NOTE}" if OTHER_PRECISION in table else table


def page(results: Results) -> str:
    study, pack = results.study, results.study.row(results.study.baseline).pack
    table = main_table(results)
    plan = f"{pack.plan}; last checkpoint, with mirroring"
    files = dict.fromkeys(row.pack.records for row in study.rows)
    parts = [
        f"# {study.title}",
        f"{study.about} {plan}. Values: {', '.join(f'[{n}.csv]({n}.csv), [{n}_runs.csv]({n}_runs.csv)' for n in files)}. This "
        f"page is written by `python -m benchmarks.study report`.",
        head_room_text(results),
        table,
    ]
    missing = [row.key for row in study.rows if row not in results.rows]
    if missing:
        parts.append(f"Not recorded: {'; '.join(missing)}.")
    parts += [
        class_table(results),
        f"![gains of the rows]({study.name}.png)",
        legend(results, table),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def legend(results: Results, table: str) -> str:
    """What the columns of `main_table` mean."""
    study = results.study
    others = {results.baseline_of(row.key) for row in results.rows} - {study.baseline}
    to = study.baseline + "".join(f" (to {other} where it says so)" for other in sorted(others))
    minus_own = f"{study.own} minus this row"
    dice = (
        f"Dice in %: mean over classes of the mean over {results.num_cases} cases of {len(results.patients)} patients, mean over "
        f"seeds. *difference* [95 % interval]: to {to} of the same seeds; the interval is a bootstrap over patients, each with all "
        "of its cases, and seeds, where there are several. With one seed it says nothing about seeds. With ten patients and three "
        "seeds it is too narrow: nine of ten such intervals hold the true value, or fewer. *median patient*: median "
        "over patients of their mean difference over seeds, cases and classes; where it is far below the difference, a few "
        "patients make the difference. *patients better / worse* in mean Dice. *share of the head-room*: difference in % of "
        f"{study.upper} minus {study.baseline}, of the seeds that all three rows have, with an interval of the same kind."
    )
    if study.own in {row.key for row in results.rows}:
        dice += f" Defaults of {study.own} were chosen on these patients: [what](README.md#what-is-compared)."
    if minus_own in table:
        dice += f" *{minus_own}*: of the seeds that both have, with an interval of the same kind."
    parts = [
        dice,
        "*95HD*: mean over the cells (class, case, seed) in which the row and the one that it is compared with have one, and in "
        f"brackets that of the latter in the same cells; of {study.baseline}: over its own cells. *missed*: classes of a case that "
        "the reference has and of which nothing is predicted, per run; they have no 95HD. That the reference has a class is known "
        "from the runs that met it there; where none did, a range is given.",
        f"*passes*: forward and backward passes of all steps, counted, relative to {study.baseline}'s (a step: the floor of "
        "[performance](../performance.md)), with the trainings that a row needs, without predictions of whole images. Where "
        "unlabeled images come in when every class is found, steps are nnU-Net's until then, and the values are for the latest "
        "and the earliest start. -: not counted. What the runs took is in the CSV.",
        PRECISION_NOTE if OTHER_PRECISION in table + head_room_text(results) else "",
        f"Networks of the runs: {results.precisions()} (mixed precision, where it is not float32).",
    ]
    return "\n\n".join(filter(None, parts))


COLORS = {  # of groups of rows
    "head-room": "0.3",
    "controls": "#D55E00",
    "new": "#009E73",
    "variants": "#CC79A7",
    "parts": "#56B4E9",
}
OTHER_COLOR = "#0072B2"


def draw_figure(file: Path, results: Results) -> None:
    """Gain of each row over the baseline: a dot per seed, the interval as a line, the head-room as a dashed line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    study = results.study
    rows = [row for row in results.rows if not np.isnan(results.difference(row.key).value)]
    figure = Figure(figsize=(8, 1.9 + 0.32 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for position, row in enumerate(rows):
        estimate = results.difference(row.key)
        color = COLORS.get(row.group, OTHER_COLOR)
        axis.plot([estimate.low, estimate.high], [position] * 2, color=color, linewidth=1.5)
        axis.plot(estimate.value, position, "|", color=color, markersize=12, markeredgewidth=2)
        to = results.baseline_of(row.key)
        for seed in results.seeds(row.key, to):
            value = results.means(row.key, seed)[0] - results.means(to, seed)[0]
            axis.plot(value, position, "o", color=color, markersize=4, alpha=0.7)
    axis.axvline(0, color="0.3", linewidth=0.8)
    usual = steps_of(results, study.baseline)
    names = []
    for row in rows:
        steps, to = steps_of(results, row.key), results.baseline_of(row.key)
        notes = [f"{steps} steps"] * (steps != usual) + [f"to {to}"] * (to != study.baseline)
        names.append(f"{row.key} ({', '.join(notes)})" if notes else row.key)
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.set_xlabel(f"difference to {study.baseline} in Dice, %")
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    groups = dict.fromkeys(row.group for row in rows)
    handles = [Line2D([], [], color=COLORS.get(group, OTHER_COLOR), marker="o", label=group) for group in groups]
    if results.has_head_room:
        axis.axvline(results.head_room.value, color="0.3", linestyle="--", linewidth=0.8)
        handles.append(Line2D([], [], color="0.3", linestyle="--", label=f"head-room: {study.upper}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.suptitle(
        f"{study.title}, {usual} steps\ndots are seeds, lines 95 % intervals over patients and seeds", fontsize=10
    )
    write_atomically(file, lambda temporary: figure.savefig(temporary, format="png"))


# ------------------------------------------------------------------------------------------------------------- writing


def texts(all_results: Mapping[str, Results] | None = None) -> dict[Path, str]:
    """Every page that has to do with studies, as it must be: those of the studies, and all that quote them.

    A quotation stands between `<!-- study:NAME -->` or `<!-- study:NAME rows: KEY; KEY -->` and `<!-- /study -->`; NAME may be
    `all`.
    """
    all_results = {name: Results(study) for name, study in STUDIES.items()} if all_results is None else all_results
    found = {FOLDER / f"{name}.md": page(results) for name, results in all_results.items() if results.has_page}
    for file in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        text = file.read_text(encoding="utf-8") if file not in found else ""
        if _BLOCK.search(text):
            found[file] = _BLOCK.sub(lambda match, file=file: _quotation(match, all_results, file), text)
    return found


def _quotation(match: re.Match, all_results: Mapping[str, Results], file: Path) -> str:
    start, name, rows, end = match.groups()
    if name == ALL:
        return f"{start}\n{overview(all_results)}\n\n{end}"
    if name not in all_results:
        raise UserError(f"{file}: there is no study {name}; allowed are {ALL}, {', '.join(all_results)}.")
    keys = None if rows is None else [key.strip() for key in rows.split(";")]
    return f"{start}\n{short_table(all_results[name], keys)}\n\n{end}"


def write_reports(studies: Sequence[Study]) -> None:
    """Pages of all studies and what quotes them, and the figures of `studies`."""
    all_results = {name: Results(study) for name, study in STUDIES.items()}
    for file, text in texts(all_results).items():
        write_atomically(file, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
    for study in studies:
        if all_results[study.name].has_page:
            draw_figure(FOLDER / f"{study.name}.png", all_results[study.name])
            print(f"{FOLDER / study.name}.md, .png")
