"""Studies on real data: prepare, train, record, report. `python -m benchmarks.study run ACDC_3 --out DIR` does all of it.

The studies are tables of rows in `benchmarks/studies.py`. A row is trained with every seed by `measured_training.py`, one thread
each, and validated with mirroring. When a run is finished, Dice and 95HD of every validation case go into `docs/studies/*.csv`, and
what the run cost into `*_runs.csv`; what is recorded is not trained again. What another row needs (its labels, its weights) and is
not in DIR is trained all the same, and an earlier record of it stays. `report` makes the pages from these files alone.

DIR has the folders raw, pp and results of nnU-Net (results_VARIANT for variants of a row), and logs. Stopped and called again,
`run` continues unfinished runs from their last epoch. Several may share DIR: each takes the runs that no other one has.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from tqdm import tqdm

from benchmarks.studies import STUDIES, Row, Study
from benchmarks.study_jobs import Job, TakenElsewhere, locked, measured_file, next_switches
from benchmarks.study_packs import prepare
from benchmarks.study_records import ENDING, costs_of, evaluate, is_recorded, kept_record, record, write_records
from benchmarks.study_report import read_records, records_file, write_reports
from nnunet_ssl.commands.steps import child_environment, done_of, run_command, threads_of_commands
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.runs import load_json
from tests.helpers.paths import REPOSITORY, SHARED

TRAINERS = REPOSITORY / "benchmarks" / "trainers"
"""Trainers that are measured and not part of the package; nnU-Net finds them as it finds a user's own."""
EXAMPLE = """\
examples:
  python -m benchmarks.study list
  python -m benchmarks.study run ACDC_3 --out study --rows head-room controls --jobs 2
  python -m benchmarks.study record ACDC_3 --row "SSL4MIS Mean Teacher" --seed 0 --steps 4000 --predictions FOLDER --out study
  python -m benchmarks.study report"""


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
    for part in (run, record):
        part.add_argument("--again", action="store_true", help="replace records of the same runs, which stay otherwise")
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
    jobs = jobs if args.command == "prepare" else jobs_to_run(jobs, args.again)
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
    environment["nnUNet_extTrainer"] = os.pathsep.join([str(TRAINERS), environment["nnUNet_extTrainer"]])
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


def jobs_to_run(jobs: Sequence[Job], again: bool = False) -> list[Job]:
    """What is not recorded, or all with `again`, and before it what it needs and what is not in the work folder.

    Raises:
        UserError: one of them is recorded with another number of steps.
    """
    found: dict[Job, None] = {}

    def add(job: Job) -> None:
        for needed in needs(job):
            if next_switches(needed) is not None:
                if not again:
                    is_recorded(needed)
                add(needed)
        found[job] = None

    for job in jobs:
        if again or not is_recorded(job):
            add(job)
    return list(found)


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
            if kept := record(job, again=args.again):
                tqdm.write(kept)
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


# ----------------------------------------------------------------------------------------------------------- recording


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
        if not args.again and (kept := kept_record(job)):
            print(kept)
            return
        measured = load_json(args.measured) if args.measured else {}
        write_records(job, evaluate(job, args.predictions), args.steps, costs_of(measured, args.steps))
        print(f"{job}: recorded in {records_file(job.row.pack.records)}")
        return
    finished = [job for job in jobs if job.row.trainer and next_switches(job) is None]
    for job in finished:
        if kept := record(job, args.measured, args.again):
            print(kept)
    print(f"{len(finished)} of {len(jobs)} runs are finished and recorded.")


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
