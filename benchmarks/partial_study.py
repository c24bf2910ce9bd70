"""Partial labels on real data: ACDC from two sources, of which one annotates RV only and the other MLV and LVC only.

Trains, with the conditions of `quick_study.py` and on the same images and split,
  all classes            nnUNetTrainer on the full labels: the upper bound
  missing = background   nnUNetTrainer on the partial labels: what a source does not annotate is background to it
  candidate sets         nnUNetTrainerPartialLabel
  and pseudo labels      nnUNetTrainerPartialLabelMT
and evaluates all on the full labels of the validation (or test) cases. Writes partial_study.md and partial_study.csv. The arguments
are those of `quick_study.py` without the data set and -tr; called again with the same ones it continues.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import quick_study as study
from nnunet_ssl.commands.steps import Step
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.runs import Experiment
from nnunet_ssl.evaluation.tables import markdown_table

EXAMPLE = """\
examples:
  python benchmarks/partial_study.py --labeled 20 --out study --epochs 6 --iters 250 --seeds 0 1
  python benchmarks/partial_study.py --labeled 20 --out study --device cuda --plan nnunet --epochs 100"""

FULL, PARTIAL = study.PACKS["ACDC"], "ACDC partial"
SOURCES = ("RV", "MLV,LVC")
LABELED = "20"  # patients; half of them for each source
# what is done -> which data set, trainer
RUNS = {
    "all classes": ("ACDC", study.VANILLA),
    "missing = background": (PARTIAL, study.VANILLA),
    "candidate sets": (PARTIAL, "nnUNetTrainerPartialLabel"),
    "and pseudo labels": (PARTIAL, "nnUNetTrainerPartialLabelMT"),
}
UPPER, LOWER = "all classes", "missing = background"


def packs() -> dict[str, study.Pack]:
    """The two data sets: ACDC as it is, and its copy with partial labels."""
    return {"ACDC": FULL, PARTIAL: replace(FULL, dataset_id=227, dataset="Dataset227_ACDC_partial")}


def preparing_steps(settings: study.Settings, num_processes: int) -> list[Step]:
    """Those of ACDC, then the same labels made partial, planned and preprocessed."""
    pack = packs()[PARTIAL]
    weaken = ["nnunet_ssl", "weaken", "-d", str(FULL.dataset_id), "-o", str(pack.dataset_id), "--kind", "partial"]
    weaken += ["-name", pack.dataset.partition("_")[2], "--annotated", *SOURCES, "-np", str(num_processes)]
    steps = study.preparing_steps(settings, num_processes)
    # after conversion; planning and the small configuration with the other id
    again = study.preparing_steps(settings, num_processes, pack)[1:]
    again = [replace(step, name=f"partial_{step.name}", what=f"partial labels: {step.what}") for step in again]
    return [*steps, Step("weaken", "keep some classes of each patient", weaken), *again]


def study_table(finished: Mapping[str, Sequence[study.Training]], summaries: Mapping) -> pd.DataFrame:
    """One row per run: what, seed, mean Dice (%) and 95HD (mm) over cases of each class, and their means.

    `gained`: the part of the distance between the lower and the upper row that a run of the same seed makes up, in % of Dice.

    Args:
        finished: what -> its finished runs.
        summaries: (pack, seed) -> `compare_summary.csv`.
    """
    rows = []
    for what, trainings in finished.items():
        for training in trainings:
            summary = summaries[RUNS[what][0], training.seed]
            row = {"labels": what, "seed": training.seed}
            for metric, unit in study.METRICS.items():
                found = summary[
                    summary["trainer"].eq(training.name) & summary["metric"].eq(metric) & summary["unit"].eq(unit)
                ].set_index("class")["mean"]
                row |= {f"{metric} {name}": value for name, value in found.drop(study.FOREGROUND).items()}
                row[f"{metric} mean"] = found[study.FOREGROUND]
            rows.append(row)
    table = pd.DataFrame(rows)
    dice = table.pivot(index="seed", columns="labels", values="Dice mean").reindex(columns=[UPPER, LOWER])
    distance = table["seed"].map(dice[UPPER] - dice[LOWER])
    table["gained"] = 100 * (table["Dice mean"] - table["seed"].map(dice[LOWER])) / distance
    return table


def report(table: pd.DataFrame, notes: list[list[str]], missing: Sequence[str]) -> str:
    """The table in Markdown, with means over seeds, and whether the lower row is one."""
    shown = table.sort_values("seed", kind="stable")
    numbers = [column for column in table.columns if column not in ("labels", "seed")]

    def cells(rows: pd.DataFrame, first: Sequence[str]) -> list[list[str]]:
        return [
            [*(str(row[c]) for c in first), *("-" if pd.isna(row[c]) else f"{row[c]:.2f}" for c in numbers)]
            for row in rows.to_dict("records")
        ]

    parts = ["# Partial labels on ACDC", markdown_table(["", ""], notes)]
    if missing:
        parts.append(f"Not finished, and so not in the table: {', '.join(missing)}.")
    parts.append(markdown_table(["labels", "seed", *numbers], cells(shown, ["labels", "seed"])))
    if table["seed"].nunique() > 1:
        means = table.groupby("labels", sort=False)[numbers].mean().reset_index()
        parts += ["Means over seeds:", markdown_table(["labels", *numbers], cells(means, ["labels"]))]
    parts.append(
        "Means over cases, Dice in %, 95HD in mm, against the full labels. *gained*: share of the difference in mean Dice between "
        f"'{LOWER}' and '{UPPER}' that a run makes up, in %."
    )
    return "\n\n".join(parts) + "\n"


def run(words: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    if not words or {"-h", "--help"} & set(words):
        print(f"{__doc__}\n{EXAMPLE}")
        return 0 if words else 2
    args = study.parse_arguments(["ACDC", *words])
    if args.tr:
        raise UserError("-tr: the trainers of this study are fixed.")
    args.labeled = args.labeled or LABELED
    settings = study.settings_of(args)
    root = args.out.absolute() / f"ACDC_partial_{settings.labeled}_{settings.plan}"
    environment = study.environment_of(root, args)
    os.environ.update(environment)
    validation = None if args.test else {"mirroring": not args.disable_tta}
    experiments = {name: Experiment(pack.dataset, settings.configuration) for name, pack in packs().items()}
    trainings = {
        what: [study.Training(trainer, seed, args.epochs, args.iters) for seed in dict.fromkeys(args.seeds)]
        for what, (_, trainer) in RUNS.items()
    }
    failed = []
    if not args.report:
        study.prepare(root, settings, preparing_steps(settings, args.np), environment)
        for name, experiment in experiments.items():
            of_pack = [t for what, ts in trainings.items() if RUNS[what][0] == name for t in ts]
            work = root / experiment.dataset  # nnUNetTrainer trains on both: its logs must not be one file
            (work / "logs").mkdir(parents=True, exist_ok=True)
            failed += study.train(work, of_pack, experiment, validation, args, environment)

    finished = {
        what: [t for t in ts if study.next_switches(experiments[RUNS[what][0]], t, validation) is None]
        for what, ts in trainings.items()
    }
    output = root / f"{args.epochs}epochs_{args.iters}iters{'_test' if args.test else ''}"
    summaries = {}
    for name, experiment in experiments.items():
        for seed in args.seeds:
            names = [t.name for what, ts in finished.items() if RUNS[what][0] == name for t in ts if t.seed == seed]
            if names:
                folder = output / f"compare_{experiment.dataset}_seed{seed}"
                summaries[name, seed] = study.compare(root, folder, experiment, names, args.test, args, environment)
    if not summaries:
        raise UserError(f"no run is finished. See the logs in {root}.")
    table = study_table(finished, summaries)
    notes = study.head_notes(settings, experiments[PARTIAL], args.test, args)
    notes.append(
        ["sources", f"half of the patients annotate {SOURCES[0]}, the others {SOURCES[1].replace(',', ' and ')}"]
    )
    missing = [f"{what}, {t.name}" for what, ts in trainings.items() for t in ts if t not in finished[what]]
    text = report(table, notes, missing)
    (output / "partial_study.md").write_text(text, encoding="utf-8")
    table.to_csv(output / "partial_study.csv", index=False)
    print(text)
    print(f"Written to {output}: partial_study.md, partial_study.csv, and compare_*/compare.md")
    return 1 if failed else 0


def main(words: Sequence[str] | None = None) -> int:
    try:
        return run(words)
    except UserError as error:
        print(f"\npartial_study: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    study.end_trainings_on_sigterm()
    sys.exit(main())
