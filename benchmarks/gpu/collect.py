"""What comes back from a GPU machine: CSV and a figure, never weights or images. And bringing it into docs/studies.

    python -m benchmarks.gpu.collect FOLDER

takes the files that `work.py` left in FOLDER into the records of the repository, where equal rows are replaced and all others stay,
writes the pages of the studies, and prints the table of the first steps.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import study, study_records, study_report
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.tables import markdown_table

FIRST_STEPS = "GPU_first_steps.csv"
CURVES = "GPU_curves.csv"
# what makes rows equal
KEYS = {FIRST_STEPS: ["trainer", "configuration", "device"], CURVES: ["results", "data", "run", "epoch"]}
_LINE = re.compile(r": (Epoch time:|Epoch|train_loss|val_loss|Pseudo dice) (.+?)\s*$", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])(?:nan|-?\d+(?:\.\d+)?(?:e-?\d+)?)")


def write(work: Path, out: Path) -> None:
    """Records so far, curves of all epochs that are finished, and the last lines of every log, to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted((work / "records").glob("*.csv")):
        shutil.copy(file, out)
    curves = curves_of(work)
    if len(curves):
        curves.to_csv(out / CURVES, index=False)
        draw(curves, out / "GPU_curves.png")
    logs = sorted((work / "logs").glob("*.txt"))
    ends = [f"==== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]) for log in logs]
    (out / "GPU_logs.txt").write_text("\n".join(ends))


def curves_of(work: Path) -> pd.DataFrame:
    """Losses, pseudo Dice (mean of classes) and seconds of every epoch of every run, finished or not, from nnU-Net's logs."""
    rows = []
    for fold in sorted(work.glob("results*/*/*/fold_0")):
        run = {"results": fold.parts[-4], "data": fold.parts[-3], "run": fold.parts[-2].split("__")[0]}
        epochs: dict[int, dict] = {}
        values: dict = {}
        for log in sorted(fold.glob("training_log_*.txt")):
            for key, text in _LINE.findall(log.read_text(errors="replace")):
                if key == "Epoch":
                    values = epochs[int(text)] = {}  # an epoch that was begun again replaces the first attempt
                    continue
                numbers = [float(number) for number in _NUMBER.findall(text.replace("np.float32", ""))]
                values[key] = sum(numbers) / len(numbers) if numbers else float("nan")
        for epoch, found in epochs.items():
            if "Epoch time:" in found:
                columns = {"Pseudo dice": "pseudo_dice", "Epoch time:": "seconds"}
                rows.append({**run, "epoch": epoch, **{columns.get(k, k): v for k, v in found.items()}})
    return pd.DataFrame(rows)


def draw(curves: pd.DataFrame, file: Path) -> None:
    """Pseudo Dice by epoch, a panel per data set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(curves.groupby("data"))
    figure = Figure(figsize=(9, 3.5 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (data, of_data) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels):
        for (results, run), of_run in of_data.groupby(["results", "run"]):
            axis.plot(of_run["epoch"], of_run["pseudo_dice"], label=f"{run} {results.removeprefix('results')}")
        axis.set(title=data, xlabel="epoch", ylabel="pseudo Dice")
        axis.legend(fontsize=6, loc="lower right")
    write_atomically(file, lambda temporary: figure.savefig(temporary, format="png"))


def first_steps_table(table: pd.DataFrame) -> str:
    """Step time and memory relative to nnU-Net's, and the step time over the floor of its arithmetic."""
    lines = []
    for (configuration, device), rows in table.groupby(["configuration", "device"]):
        vanilla = rows.set_index("trainer").reindex(["nnUNetTrainer"]).iloc[0]
        for row in rows.itertuples():
            time, floor, memory = (
                getattr(row, name) / vanilla[name] for name in ("step_ms", "gflop", "peak_memory_MiB")
            )
            numbers = [row.first_step_s, row.step_ms, time, floor, time / floor, row.peak_memory_MiB, memory]
            shown = ["-" if pd.isna(n) else f"{n:.{d}f}" for n, d in zip(numbers, (0, 1, 2, 2, 2, 0, 2))]
            error = "" if pd.isna(row.error) else row.error
            lines.append([row.trainer.removeprefix("nnUNetTrainer") or "nnU-Net", configuration, device, *shown, error])
    header = [
        "trainer",
        "configuration",
        "device",
        "first step, s",
        "step, ms",
        "x nnU-Net",
        "floor",
        "over the floor",
        "memory, MiB",
    ]
    return markdown_table([*header, "x nnU-Net", "error"], lines)


def merge(folder: Path) -> None:
    """Records of `folder` into those of the repository. UserError if there are none."""
    names = [file.stem.removesuffix("_runs") for file in sorted(folder.glob("*_runs.csv"))]
    steps = folder / FIRST_STEPS
    if not names and not steps.is_file():
        raise UserError(f"{folder} has neither *_runs.csv nor {FIRST_STEPS}. Name the folder that work.py wrote to.")
    for name in names:
        study_records.merge_records(name, *(pd.read_csv(folder / f"{name}{part}.csv") for part in ("", "_runs")))
    for file, key in KEYS.items():
        if (folder / file).is_file():
            merge_rows(folder / file, study_report.FOLDER / file, key)


def merge_rows(added: Path, file: Path, key: Sequence[str]) -> None:
    """Rows of the CSV file `added` into `file`, in the place of those that are equal in `key`, in the order of the key."""
    new, key = pd.read_csv(added), list(key)
    if file.is_file():
        old = pd.read_csv(file)
        kept = old[~pd.MultiIndex.from_frame(old[key]).isin(pd.MultiIndex.from_frame(new[key]))]
        new = pd.concat([kept, new]) if len(kept) else new
    new = new.sort_values(key, kind="stable")
    write_atomically(file, lambda temporary: new.to_csv(temporary, index=False))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(words)
    try:
        merge(args.folder)
    except UserError as error:
        print(f"\ncollect: {error}", file=sys.stderr)
        return 1
    study_report.write_reports(list(study.STUDIES.values()))
    steps = study_report.records_file("GPU_first_steps")
    if steps.is_file():
        print(first_steps_table(pd.read_csv(steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
