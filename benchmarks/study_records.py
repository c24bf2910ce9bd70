"""What finished runs leave in the repository: Dice and distances of every case, and what the run cost, in `docs/studies/*.csv`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd

from benchmarks.study_jobs import Job, locked, measured_file
from benchmarks.study_report import CELLS, KEY, RUNS, read_records, records_file
from nnunet_ssl import __version__
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.evaluation.metrics import evaluate_case
from nnunet_ssl.evaluation.runs import Experiment, load_json, patients
from nnunet_ssl.preprocessing.dense_labels import REFERENCES

ENDING = ".nii.gz"


def recorded_run(job: Job) -> pd.DataFrame:
    """The line of a run, or no line."""
    runs = read_records(job.row.pack.records)[1]
    return runs[(runs["data"] == job.key[0]) & (runs["row"] == job.key[1]) & (runs["seed"] == job.key[2])]


def is_recorded(job: Job) -> bool:
    """UserError where the recorded run had another number of steps than the row has now. The records do not say with which
    trainer and settings it was made, so whoever changes these gives the row another key."""
    found = recorded_run(job)
    if len(found) and found["steps"].item() != job.row.steps:
        raise UserError(
            f"{records_file(job.row.pack.records, '_runs')}: {job} has {found['steps'].item()} steps, the row of "
            f"benchmarks/studies.py {job.row.steps}. Delete these rows to train it anew, or give the new row another key."
        )
    return len(found) > 0


def kept_record(job: Job) -> str:
    """In a sentence, the record that stays where a run is not to be recorded again; empty without one."""
    found = recorded_run(job)
    if not len(found):
        return ""
    run = found.iloc[0]
    return (
        f"{job}: the record of {run['date']} ({run['steps']} steps, {run['precision']}) stays. Replace it with --again."
    )


def record(job: Job, measured_elsewhere: Path | None = None, again: bool = False) -> str:
    """Add a finished run to the files.

    Args:
        again: replace an earlier record of it, which stays otherwise.

    Returns:
        what `kept_record` says, where it stays.
    """
    if not again and (kept := kept_record(job)):
        return kept
    file = measured_elsewhere or measured_file(job)
    costs = costs_of(load_json(file) if file.is_file() else {}, job.row.steps)
    costs["epoch_seconds"] = epoch_seconds(job.folder, job.row.epochs)
    write_records(job, evaluate(job, job.folder / "validation"), job.row.steps, costs)
    return ""


def costs_of(measured: Mapping, steps: int) -> dict[str, object]:
    """What `measured_training.py` wrote; nothing of what does not cover all steps."""
    costs: dict[str, object] = {"device": "cuda" if measured.get("memory") == "CUDA" else "cpu"}
    costs["precision"] = measured.get("precision", "float32")
    for key, column in (("seconds", "step_seconds"), ("cpu_seconds", "step_cpu_seconds")):
        if len(measured.get(key, [])) == steps:
            costs[column] = round(sum(measured[key]), 1)
    if "peak_memory_bytes" in measured:
        costs["peak_memory_MiB"] = round(measured["peak_memory_bytes"] / 2**20)
    return costs


def epoch_seconds(folder: Path, epochs: int) -> float:
    """Wall time of all epochs by nnU-Net's log, validation of epochs and waiting for data included; NaN if one is not there."""
    logs = "".join(file.read_text(errors="replace") for file in sorted(folder.glob("training_log_*.txt")))
    found = re.findall(r": Epoch (\d+)\s*$|: Epoch time: ([\d.]+) s", logs, re.MULTILINE)
    times, epoch = {}, ""
    for number, seconds in found:
        epoch = number or epoch
        if seconds:
            times[epoch] = float(seconds)  # of an epoch that was begun again, the last
    return round(sum(times.values()), 1) if len(times) == epochs else math.nan


def evaluate(job: Job, folder: Path) -> pd.DataFrame:
    """Dice (%) and 95HD (mm) of every validation case and class of fold 0, against dense labels where labels are sparse.

    Raises:
        UserError: a prediction or a reference is missing, or one cannot be read.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    base = Path(os.environ["nnUNet_preprocessed"]) / job.row.pack.dataset
    cases = load_splits(base / "splits_final.json")[0]["val"]
    predictions = files_with_ending(folder, ENDING)
    references = files_with_ending(base / REFERENCES, ENDING) or files_with_ending(base / "gt_segmentations", ENDING)
    for what, files, place in (("predictions", predictions, folder), ("references", references, base)):
        missing = sorted(set(cases) - files.keys())
        if missing:
            raise UserError(f"{place}: {what} of {len(missing)} of {len(cases)} cases are missing: {some(missing, 5)}.")
    labels = load_json(base / "dataset.json")["labels"]
    classes = {name: label for name, label in labels.items() if name not in ("background", "ignore")}
    reader = PlansManager(str(base / "nnUNetPlans.json")).image_reader_writer_class()
    patient_of = patients(Experiment(job.row.pack.dataset, job.row.pack.configuration))
    rows = []
    for case in sorted(cases):
        found = evaluate_case(predictions[case], references[case], classes, None, reader, "Validate again.")
        for name, result in found.items():
            dice, distance = 100 * result.values["Dice", "%"], result.values["95HD", "mm"]
            rows.append([patient_of.get(case, case), case, name, round(dice, 3), round(distance, 3)])
    return pd.DataFrame(rows, columns=CELLS[len(KEY) :])


def write_records(job: Job, cells: pd.DataFrame, steps: int, costs: Mapping[str, object]) -> None:
    """Put one run into both files."""
    identity = dict(zip(KEY, job.key))
    run = {**identity, "steps": steps, **costs, "date": date.today().isoformat()}
    run["version"] = __version__
    merge_records(job.row.pack.records, cells.assign(**identity)[CELLS], pd.DataFrame([run]).reindex(columns=RUNS))


def merge_records(records: str, cells: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Put runs into both files at once, in the order of key, seed and case; earlier records of them are replaced."""
    added_keys = pd.MultiIndex.from_frame(runs[KEY])
    folder = records_file(records).parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for old, added, part in zip(read_records(records), (cells, runs), ("", "_runs")):
            kept = old[~pd.MultiIndex.from_frame(old[KEY]).isin(added_keys)]
            table = pd.concat([kept, added]) if len(kept) else added
            table = table.sort_values(KEY, kind="stable")
            write_atomically(records_file(records, part), lambda file, t=table: t.to_csv(file, index=False))
