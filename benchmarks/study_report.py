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


class Results:
    """The recorded rows of one study.

    Means are over classes of the means over cases, as nnU-Net's. A difference to the baseline is of equal seeds. Its interval
    resamples patients, each with all of its cases, and, where there are several, seeds; both rows get the same ones.
    """

    def __init__(self, study: Study):
        self.study = study
        cells, runs = zip(*(read_records(name) for name in dict.fromkeys(row.pack.records for row in study.rows)))
        self.cells = {row.key: self._of(pd.concat(cells), row) for row in study.rows}
        self.runs = {row.key: self._of(pd.concat(runs), row) for row in study.rows}
        self.rows = [row for row in study.rows if len(self.cells[row.key])]
        recorded = pd.concat(list(self.cells.values()))
        self.classes = list(recorded["class"].unique())
        self.patients = sorted(recorded["patient"].unique())
        self.num_cases = recorded["case"].nunique()
        cases = {row.key: set(self.cells[row.key]["case"]) for row in self.rows}
        for key, found in cases.items():
            if found != set(recorded["case"]):
                raise UserError(f"{study.name}: row {key} has {len(found)} of {self.num_cases} cases.")

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
        drawn = np.random.default_rng(statistics.SEED).multinomial(number, [1 / number] * number, statistics.RESAMPLES)
        return np.concatenate([np.ones((1, number)), drawn])

    def means(self, key: str, seed: int) -> np.ndarray:
        """`(1 + resamples,)`: the foreground mean of a run, in every resample of the patients."""
        of_patient = self.matrix(key, seed).groupby("patient")
        sums, counts = (part.reindex(self.patients).to_numpy(float) for part in (of_patient.sum(), of_patient.count()))
        return np.nanmean(self.draws @ sums / (self.draws @ counts), axis=1)

    def differences(self, key: str, seeds: Sequence[int]) -> np.ndarray:
        """`(1 + resamples,)`: mean over seeds of row minus baseline, in every resample of patients and seeds."""
        of_seed = np.stack([self.means(key, seed) - self.means(self.study.baseline, seed) for seed in seeds], axis=1)
        number = len(seeds)
        drawn = np.random.default_rng(statistics.SEED + 1).multinomial(
            number, [1 / number] * number, statistics.RESAMPLES
        )
        return (of_seed * np.concatenate([np.ones((1, number)), drawn])).sum(1) / number

    def estimate(self, resamples: np.ndarray) -> Estimate:
        tails = 50 * (1 - statistics.CONFIDENCE), 50 * (1 + statistics.CONFIDENCE)
        low, high = np.percentile(resamples[1:], tails) if len(self.patients) > 1 else (np.nan, np.nan)
        return Estimate(float(resamples[0]), float(low), float(high))

    def difference(self, key: str) -> Estimate:
        """Dice of a row minus that of the baseline."""
        seeds = self.seeds(key, self.study.baseline)
        return self.estimate(self.differences(key, seeds)) if seeds and key != self.study.baseline else UNKNOWN

    @cached_property
    def head_room(self) -> Estimate:
        return self.difference(self.study.upper)

    @property
    def has_page(self) -> bool:
        """Without the baseline there is nothing to compare with."""
        return bool(self.seeds(self.study.baseline))

    @property
    def has_head_room(self) -> bool:
        return self.head_room.value >= SMALLEST_HEAD_ROOM

    def share(self, key: str) -> Estimate:
        """Difference to the baseline in % of the head-room, of the seeds that the three rows have."""
        seeds = self.seeds(key, self.study.baseline, self.study.upper)
        if not (seeds and self.has_head_room) or key in (self.study.baseline, self.study.upper):
            return UNKNOWN
        return self.estimate(100 * self.differences(key, seeds) / self.differences(self.study.upper, seeds))

    def share_text(self, key: str) -> str:
        """The share, with its seeds where the difference beside it has others."""
        seeds, text = self.seeds(key, self.study.baseline, self.study.upper), self.share(key).text(0)
        if text == "-" or seeds == self.seeds(key, self.study.baseline):
            return text
        return f"{text} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"

    def patients_better(self, key: str) -> str:
        """Patients with a higher and with a lower mean Dice than the baseline, in the mean over seeds."""
        seeds = self.seeds(key, self.study.baseline)
        if not seeds or key == self.study.baseline:
            return "-"
        differences = sum(self.matrix(key, s) - self.matrix(self.study.baseline, s) for s in seeds)
        of_patients = differences.mean(axis=1).groupby("patient").mean().round(6)
        return f"{(of_patients > 0).sum()} / {(of_patients < 0).sum()}"

    def mean(self, key: str, metric: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """`(classes,)`: mean over seeds (all of the row) of the mean over cases that have a value."""
        return np.mean([self.matrix(key, seed, metric).mean() for seed in seeds or self.seeds(key)], axis=0)

    def missed(self, key: str) -> str:
        """Predictions without a class that is there, per run."""
        return f"{self.cells[key]['95HD'].isna().sum() / len(self.seeds(key)):.3g}"

    def time(self, key: str) -> str:
        """Time in training steps, earlier rounds included, relative to the baseline's: processor time, on a GPU wall time.

        Of runs of one precision.
        """

        def seconds(of: str, precision: str) -> float:
            runs = self.runs[of][self.runs[of]["precision"] == precision]
            own = runs["step_cpu_seconds"].where(runs["device"] == "cpu", runs["step_seconds"]).mean()
            return own + sum(seconds(before, precision) for before in self.study.row(of).after)

        precisions = sorted(self.runs[key]["precision"].unique())
        ratios = [seconds(key, precision) / seconds(self.study.baseline, precision) for precision in precisions]
        return next((f"{ratio:.2f}" for ratio in ratios if not np.isnan(ratio)), "-")

    def precisions(self) -> str:
        """How many runs computed in which precision."""
        numbers = pd.concat(list(self.runs.values()))["precision"].value_counts(sort=False)
        return ", ".join(f"{number} in {precision}" for precision, number in sorted(numbers.items()))


# --------------------------------------------------------------------------------------------------------------- pages


def head_room_text(results: Results) -> str:
    """What there is to gain, in a sentence. The first thing that a page says."""
    study = results.study
    seeds = results.seeds(study.baseline, study.upper)
    if not seeds:
        return f"**Head-room**: not known, {study.baseline} and {study.upper} are not recorded with the same seed."
    low, high = (np.mean(results.mean(key, "Dice", seeds)) for key in (study.baseline, study.upper))
    text = (
        f"**Head-room**: {results.head_room.text(sign='')} Dice, from {low:.1f} ({study.baseline}) to {high:.1f} ({study.upper}), "
        f"seeds {', '.join(map(str, seeds))}."
    )
    if not results.has_head_room:
        text += f" **Below {SMALLEST_HEAD_ROOM} Dice: this pack cannot tell methods apart**, and shares of it are not given."
    return text


def steps_of(results: Results, key: str) -> str:
    """Optimizer steps of the runs of a row."""
    return ", ".join(map(str, results.runs[key]["steps"].unique()))


def main_table(results: Results) -> str:
    distances = [np.nanmean(results.mean(row.key, "95HD")) for row in results.rows]
    header = ["row", "seeds", "steps", "time", *(f"Dice {name}" for name in results.classes), "Dice", "difference"]
    header += ["share of the head-room, %", "patients better / worse", "95HD, mm", "missed"]
    lines = []
    for row, distance in zip(results.rows, distances):
        dice = results.mean(row.key, "Dice")
        lines.append(
            [
                row.key,
                ", ".join(map(str, results.seeds(row.key))),
                steps_of(results, row.key),
                results.time(row.key),
                *(f"{value:.1f}" for value in dice),
                f"{np.mean(dice):.1f}",
                results.difference(row.key).text(),
                results.share_text(row.key),
                results.patients_better(row.key),
                f"{distance:.1f}",
                results.missed(row.key),
            ]
        )
    return markdown_table(header, lines)


def short_table(results: Results, keys: Sequence[str] | None = None) -> str:
    """For other pages: Dice, difference and share of some rows."""
    unknown = [key for key in keys or () if key not in [row.key for row in results.study.rows]]
    if unknown:
        raise UserError(f"{results.study.name} has no row {unknown[0]}: {', '.join(r.key for r in results.study.rows)}")
    lines = [
        [
            row.key,
            str(len(results.seeds(row.key))),
            results.time(row.key),
            f"{np.mean(results.mean(row.key, 'Dice')):.1f}",
            results.difference(row.key).text(),
            results.share_text(row.key),
        ]
        for row in results.rows
        if keys is None or row.key in keys
    ]
    header = ["row", "seeds", "time", "Dice", "difference [95 %]", "share of the head-room, % [95 %]"]
    return f"{head_room_text(results)}\n\n{markdown_table(header, lines)}"


def overview(all_results: Mapping[str, Results]) -> str:
    """One line per study."""
    lines = []
    for name, results in all_results.items():
        share = "" if results.has_head_room or np.isnan(results.head_room.value) else " (too small)"
        page = f"[{results.study.title}]({name}.md)" if results.has_page else results.study.title
        count = f"{len(results.rows)} of {len(results.study.rows)}"
        lines.append([page, results.head_room.text(sign="") + share, count])
    return markdown_table(["study", "head-room, Dice [95 %]", "rows recorded"], lines)


def page(results: Results) -> str:
    study, pack = results.study, results.study.row(results.study.baseline).pack
    plan = f"{pack.plan}; last checkpoint, with mirroring"
    files = dict.fromkeys(row.pack.records for row in study.rows)
    parts = [
        f"# {study.title}",
        f"{study.about} {plan}. Values: {', '.join(f'[{n}.csv]({n}.csv), [{n}_runs.csv]({n}_runs.csv)' for n in files)}. This "
        f"page is written by `python -m benchmarks.study report`.",
        head_room_text(results),
        main_table(results),
    ]
    missing = [row.key for row in study.rows if row not in results.rows]
    if missing:
        parts.append(f"Not recorded: {'; '.join(missing)}.")
    parts += [
        f"![gains of the rows]({study.name}.png)",
        f"Dice in %: mean over classes of the mean over {results.num_cases} cases of {len(results.patients)} patients, mean over "
        f"seeds. *difference* [95 % interval]: to {study.baseline} of the same seeds; the interval is a bootstrap over patients, "
        "each with all of its cases, and seeds, where there are several. With one seed it says nothing about seeds. *share of the "
        f"head-room*: difference in % of {study.upper} minus {study.baseline}, of the seeds that all three rows have, with an "
        f"interval of the same kind. *patients better / worse* than {study.baseline} in mean Dice. *95HD*: mean over the cases "
        "that have one. *missed*: classes of a case without any voxel, per run; they have no 95HD. *time*: of the training steps "
        "relative to "
        f"{study.baseline}, processor time on a CPU and wall time on a GPU, with the training of earlier rounds; "
        f"-: not measured. Networks of the runs: {results.precisions()} (mixed precision, where it is not float32).",
    ]
    return "\n\n".join(parts) + "\n"


COLORS = {"head-room": "0.3", "controls": "#D55E00", "new": "#009E73", "variants": "#CC79A7"}  # of groups of rows
OTHER_COLOR = "#0072B2"


def draw_figure(file: Path, results: Results) -> None:
    """Gain of each row over the baseline: a dot per seed, the interval as a line, the head-room as a dashed line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    study = results.study
    rows = [row for row in results.rows if results.seeds(row.key, study.baseline) and row.key != study.baseline]
    figure = Figure(figsize=(8, 1.9 + 0.32 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for position, row in enumerate(rows):
        estimate = results.difference(row.key)
        color = COLORS.get(row.group, OTHER_COLOR)
        axis.plot([estimate.low, estimate.high], [position] * 2, color=color, linewidth=1.5)
        axis.plot(estimate.value, position, "|", color=color, markersize=12, markeredgewidth=2)
        for seed in results.seeds(row.key, study.baseline):
            value = results.means(row.key, seed)[0] - results.means(study.baseline, seed)[0]
            axis.plot(value, position, "o", color=color, markersize=4, alpha=0.7)
    axis.axvline(0, color="0.3", linewidth=0.8)
    usual = steps_of(results, study.baseline)
    others = {row.key: steps_of(results, row.key) for row in rows if steps_of(results, row.key) != usual}
    names = [f"{row.key} ({others[row.key]} steps)" if row.key in others else row.key for row in rows]
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
        f"{study.title}, {usual} steps: dots are seeds, lines 95 % intervals over patients and seeds", fontsize=10
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
