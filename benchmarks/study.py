"""Studies on real data: prepare, train, record, report. `python -m benchmarks.study run ACDC_3 --out DIR` does all of it.

The studies are tables of rows in `benchmarks/studies.py`. A row is trained with every seed by `measured_training.py`, one thread
each, and validated with mirroring. When a run is finished, Dice and 95HD of every validation case go into `docs/studies/*.csv`, and
what the run cost into `*_runs.csv`; what is recorded is not trained again. `report` makes the pages from these files alone.

DIR has the folders raw, pp and results of nnU-Net (results_VARIANT for variants of a row), and logs. Stopped and called again,
`run` continues unfinished runs from their last epoch. Several may share DIR: each takes the runs that no other one has.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from benchmarks.measured_training import VALIDATED
from benchmarks.studies import STUDIES, Pack, Row, Study
from benchmarks.study_report import CELLS, KEY, RUNS, read_records, records_file, write_reports
from nnunet_ssl import __version__
from nnunet_ssl.commands.steps import Step, child_environment, done_of, run_command, run_steps, threads_of_commands
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.listing import files_with_ending
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.errors import UserError, some
from nnunet_ssl.evaluation.metrics import evaluate_case
from nnunet_ssl.evaluation.runs import Experiment, load_json, patients
from nnunet_ssl.preprocessing.dense_labels import REFERENCES
from tests.helpers.paths import REPOSITORY, SHARED

EXAMPLE = """\
examples:
  python -m benchmarks.study list
  python -m benchmarks.study run ACDC_3 --out study --rows head-room controls --jobs 2
  python -m benchmarks.study record ACDC_3 --row "SSL4MIS Mean Teacher" --seed 0 --steps 4000 --predictions FOLDER --out study
  python -m benchmarks.study report"""

ENDING = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """One run: a row with a seed."""

    row: Row
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.row.pack.name, self.row.key, self.seed

    @property
    def name(self) -> str:
        return self.row.run_name(self.seed)

    @property
    def results(self) -> str:
        """Value of nnUNet_results."""
        folder = Path(os.environ["nnUNet_results"])
        return str(folder.with_name(f"{folder.name}_{self.row.variant}") if self.row.variant else folder)

    @property
    def folder(self) -> Path:
        pack = self.row.pack
        return Path(self.results, pack.dataset, f"{self.name}__nnUNetPlans__{pack.configuration}", "fold_0")

    def __str__(self) -> str:
        return f"{self.row.pack.name}, {self.row.key}, seed {self.seed}"


class TakenElsewhere(Exception):
    """Another process trains this run."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    many = {"nargs": "*", "default": [], "metavar": "STUDY", "help": f"{', '.join(STUDIES)}. Default: all"}
    commands.add_parser("list", help="studies, their rows, and which are recorded").add_argument("studies", **many)
    prepare = commands.add_parser("prepare", help="convert, plan and preprocess")
    run = commands.add_parser("run", help="prepare, train, record, report")
    record = commands.add_parser("record", help="record finished runs, or a folder of predictions")
    commands.add_parser("report", help="pages and figures from the recorded rows").add_argument("studies", **many)
    for part in (prepare, run, record):
        part.add_argument("studies", nargs="+", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
        part.add_argument("--out", type=Path, required=True, metavar="DIR", help="work folder")
    for part in (prepare, run):
        part.add_argument("--data", type=Path, default=SHARED / "data", metavar="DIR", help="folder of the releases")
        part.add_argument(
            "-np", type=int, default=1, metavar="N", help="background workers of each process. Default: 1"
        )
    for part in (prepare, run, record):
        part.add_argument("--rows", "--row", nargs="+", metavar="KEY", help="keys or groups of rows. Default: all")
        part.add_argument("--seeds", "--seed", type=int, nargs="+", metavar="S", help="Default: those of the study")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side. Default: 1")
    run.add_argument(
        "--idle", action="store_true", help="train with what no other process wants of the processor (Linux)"
    )
    run.add_argument(
        "--bfloat16",
        action="store_true",
        help="networks in mixed precision on CPU, as nnU-Net's are on a GPU; recorded",
    )
    run.add_argument("--compile", action="store_true", help="compile the networks on CPU, as nnU-Net's are on a GPU")
    run.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="Default: cpu")
    record.add_argument("--steps", type=int, metavar="N", help="with --predictions: optimizer steps of the training")
    record.add_argument(
        "--predictions", type=Path, metavar="FOLDER", help=f"label maps <case>{ENDING} of fold 0's cases"
    )
    record.add_argument(
        "--measured", type=Path, metavar="FILE", help="of one run: what measured_training.py wrote elsewhere"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 after an error, and when a run failed (the others are done all the same)."""
    args = make_parser().parse_args(words)
    try:
        unknown = [name for name in args.studies if name not in STUDIES]
        if unknown:
            raise UserError(f"study {unknown[0]}: allowed are {', '.join(STUDIES)}.")
        studies = [STUDIES[name] for name in args.studies or STUDIES]
        if args.command == "list":
            print(listing(studies))
        elif args.command == "report":
            write_reports(studies)
        else:
            return work(args, studies)
    except UserError as error:
        print(f"\nstudy: {error}", file=sys.stderr)
        return 1
    return 0


def work(args: argparse.Namespace, studies: Sequence[Study]) -> int:
    """The commands that need the work folder."""
    root = args.out.absolute()
    environment = environment_of(root, args)
    os.environ.update(environment)
    jobs = jobs_of(studies, args.rows, args.seeds)
    if args.command == "record":
        record_jobs(jobs, args)
        return 0
    jobs = [job for job in jobs if job.row.trainer]
    jobs = jobs if args.command == "prepare" else jobs_to_run(jobs)
    for job in jobs:
        try:
            find_trainer(job.name)
        except AttributeError as error:
            raise UserError(f"row {job.row.key}: {error}. Name other rows with --rows.") from error
    for pack in dict.fromkeys(job.row.pack for job in jobs):
        prepare(root, pack, args, environment)
    if args.command == "prepare":
        return 0
    failed = train(root, jobs, args, environment)
    write_reports(list(STUDIES.values()))
    return 1 if failed else 0


def environment_of(root: Path, args: argparse.Namespace) -> dict[str, str]:
    environment = child_environment(root, getattr(args, "np", 1))
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "pp", "nnUNet_results": "results"}
    environment |= {variable: str(root / folder) for variable, folder in folders.items()}
    # the commands work with the package of this checkout
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    # glibc returns large tensors to the system and maps them anew each time, which doubles the time of a 3D step on a CPU
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))
    return environment


# ---------------------------------------------------------------------------------------------------------------- jobs


def chosen_rows(study: Study, names: Sequence[str] | None) -> list[Row]:
    """Rows of a study by key or group; a name may be of another study of the same call."""
    return [row for row in study.rows if names is None or row.key in names or row.group in names]


def jobs_of(studies: Sequence[Study], names: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Job]:
    """The runs of these rows, seed by seed, those that give the head-room first. UserError for names of no row."""
    known = [name for study in studies for row in study.rows for name in (row.key, row.group)]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UserError(f"--rows {unknown[0]}: allowed are {', '.join(dict.fromkeys(known))}.")
    jobs = [
        (seed, row.group != "head-room", Job(row, seed))
        for study in studies
        for row in chosen_rows(study, names)
        for seed in (study.seeds if seeds is None else seeds)
    ]
    return list(dict.fromkeys(job for *_, job in sorted(jobs, key=lambda job: job[:2])))


def needs(job: Job) -> list[Job]:
    """The runs of the same seed that must be trained before."""
    study = next(study for study in STUDIES.values() if job.row in study.rows)
    return [Job(study.row(key), job.seed) for key in job.row.after]


def jobs_to_run(jobs: Sequence[Job]) -> list[Job]:
    """What is not recorded, and before it what it needs and what is not in the work folder."""
    found: dict[Job, None] = {}

    def add(job: Job) -> None:
        for needed in needs(job):
            if next_switches(needed) is not None:
                add(needed)
        found[job] = None

    for job in jobs:
        if not is_recorded(job):
            add(job)
    return list(found)


def next_switches(job: Job) -> list[str] | None:
    """What `nnUNetv2_train` needs to bring a run to its end, judged by what lies in its folder; None if it is finished."""
    if (job.folder / "checkpoint_final.pth").is_file():
        made = job.folder / VALIDATED
        return None if made.is_file() and load_json(made) == {"mirroring": True} else ["--val"]
    begun = any((job.folder / name).is_file() for name in ("checkpoint_latest.pth", "checkpoint_best.pth"))
    return ["--c"] if begun else []


@contextmanager
def locked(file: Path, wait_for_it: bool = True) -> Iterator[None]:
    """Hold a lock file, or the lock of a folder. TakenElsewhere if another process has it and is not waited for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDONLY if file.is_dir() else os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait_for_it else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise TakenElsewhere from None
    try:
        yield
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------------------- preparing


def prepare(root: Path, pack: Pack, args: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Convert, plan and preprocess, unless it is done. UserError where the folder holds another plan of this name."""
    with locked(root / "locks" / "prepare"):  # one for all packs, which may have the same source
        plans = root / "pp" / pack.dataset / "nnUNetPlans.json"
        if not (plans.is_file() and pack.configuration in load_json(plans)["configurations"]):
            (root / "logs").mkdir(parents=True, exist_ok=True)
            run_steps(root, preparing_steps(root, pack, args), {}, lambda: None, environment)
    configurations = load_json(plans)["configurations"]
    planned = {**configurations[pack.base], **configurations[pack.configuration]}
    expected = {"patch_size": list(pack.patch), "batch_size": pack.batch_size} if pack.patch else {}
    if pack.spacing:
        expected["spacing"] = list(pack.spacing[-len(planned["spacing"]) :])
    for key, value in expected.items():
        if planned[key] != value:
            raise UserError(
                f"{plans}: {pack.configuration} has {key} {planned[key]}, the study needs {value}. Name another --out, or delete "
                f"{plans.parent} to have it made again."
            )


def preparing_steps(root: Path, pack: Pack, args: argparse.Namespace) -> list[Step]:
    """What makes a pack, those of its source included as far as they are not there."""
    dataset, np = str(pack.dataset_id), ["-np", str(args.np)]
    steps = []

    def add_raw(pack: Pack) -> None:
        if (root / "raw" / pack.dataset / "dataset.json").is_file():  # written last
            return
        if pack.source:
            add_raw(pack.source)
        lists = root / "lists" / pack.dataset
        if pack.validation_list:
            listed = args.data / pack.validation_list
            if not listed.is_file():
                raise UserError(
                    f"{listed} does not exist. Give the folder of the releases with --data (docs/data_format.md)."
                )
            lists.mkdir(parents=True, exist_ok=True)
            (lists / "val.list").write_text(listed.read_text())
        words = [word.format(data=args.data.absolute(), lists=lists) for word in pack.make.split()]
        ids = ["-d", str(pack.source.dataset_id), "-o"] if pack.source else ["-d"]
        action = ["nnunet_ssl", *words, *ids, str(pack.dataset_id), "-name", pack.name, *np]
        steps.append(Step(f"{pack.dataset}_raw", f"{pack.dataset}: {words[0]}", action))
        if pack.again:
            action = ["python", "-m", "benchmarks.labeled_again", "-d", str(pack.dataset_id)]
            steps.append(Step(f"{pack.dataset}_again", f"{pack.dataset}: labeled images as unlabeled ones", action))

    add_raw(pack)
    plan = ["nnunet_ssl", "plan_and_preprocess", "-d", dataset, "-c", pack.base, *np, "-npfp", str(args.np)]
    if pack.spacing:
        plan += ["-overwrite_target_spacing", *map(str, pack.spacing)]
    steps.append(Step(f"{pack.dataset}_plan", f"{pack.dataset}: plan and preprocess", plan))
    if not pack.patch:
        return steps
    small = ["python", "-m", "nnunet_ssl.plans.small", "-d", dataset, "-b", pack.base]
    small += ["--patch_size", *map(str, pack.patch), "--batch_size", str(pack.batch_size)]
    small += ["--features", *map(str, pack.features)]
    return [
        *steps,
        Step(f"{pack.dataset}_small", f"{pack.dataset}: add the small configuration", small),
    ]


# ------------------------------------------------------------------------------------------------------------ training


def train(root: Path, jobs: Sequence[Job], args: argparse.Namespace, environment: Mapping[str, str]) -> list[Job]:
    """Bring all runs to their end and record them, `--jobs` at a time. Returns those that failed, which are printed."""
    (root / "logs").mkdir(parents=True, exist_ok=True)
    epochs = dict.fromkeys(jobs, 0)

    def train_one(job: Job, check: Callable[[], None]) -> None:
        def report(epoch: int | None) -> None:
            check()
            epochs[job] = epoch or epochs[job]

        run = "_".join(filter(None, [job.row.pack.dataset, job.row.variant, job.name]))
        log = root / "logs" / run
        with locked(root / "locks" / run, wait_for_it=False):
            switches = next_switches(job)
            for number, (words, results) in enumerate(commands_of(job, switches, args)):
                report(None)
                tqdm.write(f"$ {shlex.join(words)}")
                run_command(words, Path(f"{log}_{number}.txt"), {**environment, "nnUNet_results": results}, report)
            record(job)
            epochs[job] = job.row.epochs

    pending, failed = list(jobs), []
    running: dict[Future, Job] = {}
    interval = 0.5 if sys.stderr.isatty() else 60  # in a file, every update is a line
    print(f"{len(jobs)} runs to train")
    total = sum(job.row.epochs for job in jobs)
    with threads_of_commands(args.jobs) as (pool, check), tqdm(total=total, unit="epoch", mininterval=interval) as bar:
        while pending or running:
            for job in list(pending):
                waits_for = [needed for needed in needs(job) if needed in pending or needed in running.values()]
                if len(running) < args.jobs and not waits_for:
                    pending.remove(job)
                    running[pool.submit(train_one, job, check)] = job
            for future in done_of(running):
                job, error = running.pop(future), future.exception()
                if isinstance(error, TakenElsewhere):
                    tqdm.write(f"{job}: is trained by another process")
                elif isinstance(error, UserError):
                    failed.append(job)
                    tqdm.write(f"{job}: {error}", file=sys.stderr)
                elif error is not None:
                    raise error
            bar.set_postfix_str("; ".join(map(str, running.values())), refresh=False)
            bar.update(sum(epochs.values()) - bar.n)
    return failed


def commands_of(job: Job, switches: list[str] | None, args: argparse.Namespace) -> list[tuple[list[str], str]]:
    """(words, nnUNet_results) of what brings a run to its end: the commands before the training, if it is not begun, then the
    training. The former find the run that they use in its own results."""
    if switches is None:
        return []
    before = needs(job)
    for needed in before:
        if next_switches(needed) is not None:
            raise UserError(f"{needed} is not finished, which it needs.")
    pack = job.row.pack
    names = {"dataset": pack.dataset_id, "configuration": pack.configuration, "seed": job.seed, "device": args.device}
    names["after"] = [needed.name for needed in before]
    commands = []
    if not switches:
        commands = [(["nnunet_ssl", *c.format(**names).split()], before[0].results) for c in job.row.commands]
    words = ["python", str(Path(__file__).with_name("measured_training.py")), "--measured", str(measured_file(job))]
    words += ["--threads", "1", *(["--idle"] if args.idle else []), *(["--bfloat16"] if args.bfloat16 else [])]
    words += ["--compile"] if args.compile else []
    for setting in job.row.settings:
        words += ["--set", setting.format(**names)]
    words += [str(pack.dataset_id), pack.configuration, "0", "-tr", job.name, "-device", args.device, *switches]
    if job.row.pretrained and not switches:
        (given,) = [needed for needed in before if needed.row.key == job.row.pretrained]
        words += ["-pretrained_weights", str(given.folder / "checkpoint_final.pth")]
    return [*commands, (words, job.results)]


def measured_file(job: Job) -> Path:
    return job.folder / "measured.json"


# ----------------------------------------------------------------------------------------------------------- recording


def is_recorded(job: Job) -> bool:
    """UserError where the recorded run had another number of steps than the row has now."""
    runs = read_records(job.row.pack.records)[1]
    found = runs[(runs["data"] == job.key[0]) & (runs["row"] == job.key[1]) & (runs["seed"] == job.key[2])]
    if len(found) and found["steps"].item() != job.row.steps:
        raise UserError(
            f"{records_file(job.row.pack.records, '_runs')}: {job} has {found['steps'].item()} steps, the row of "
            f"benchmarks/studies.py {job.row.steps}. Delete these rows to train it anew, or give the new row another key."
        )
    return len(found) > 0


def record_jobs(jobs: Sequence[Job], args: argparse.Namespace) -> None:
    """The command `record`: what is finished, or one run that was trained elsewhere."""
    if (args.predictions or args.measured) and len(jobs) != 1:
        raise UserError(
            f"--predictions and --measured are of one run; {len(jobs)} are chosen. Give one STUDY, --row and --seed."
        )
    if args.predictions:
        if args.steps is None:
            raise UserError("--predictions: give the optimizer steps of the training, too (--steps).")
        (job,) = jobs
        measured = load_json(args.measured) if args.measured else {}
        write_records(job, evaluate(job, args.predictions), args.steps, costs_of(measured, args.steps))
        print(f"{job}: recorded in {records_file(job.row.pack.records)}")
        return
    finished = [job for job in jobs if job.row.trainer and next_switches(job) is None]
    for job in finished:
        record(job, args.measured)
    print(f"{len(finished)} of {len(jobs)} runs are finished and recorded.")


def record(job: Job, measured_elsewhere: Path | None = None) -> None:
    """Add a finished run to the files, replacing an earlier record of it."""
    file = measured_elsewhere or measured_file(job)
    costs = costs_of(load_json(file) if file.is_file() else {}, job.row.steps)
    costs["epoch_seconds"] = epoch_seconds(job.folder, job.row.epochs)
    write_records(job, evaluate(job, job.folder / "validation"), job.row.steps, costs)


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


# ------------------------------------------------------------------------------------------------------------- listing


def listing(studies: Sequence[Study]) -> str:
    """The studies with their rows; seeds that are recorded."""
    lines = []
    for study in studies:
        lines.append(f"{study.name}: {study.title}")
        for row in study.rows:
            runs = read_records(row.pack.records)[1]
            seeds = runs.loc[(runs["data"] == row.pack.name) & (runs["row"] == row.key), "seed"]
            recorded = ", ".join(map(str, seeds)) or "-"
            trained = f"{row.trainer}, {row.steps} steps" if row.trainer else "measured elsewhere"
            lines.append(f"  {row.key:<22} {row.group:<10} {row.pack.name:<14} {trained}; seeds recorded: {recorded}")
    return "\n".join(lines)


def end_on_sigterm() -> None:
    """So that `finally` ends the trainings, which are process groups of their own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main())
