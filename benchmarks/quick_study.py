"""Vanilla nnU-Net and other trainers on real data: one plan, one labeled list, equally many optimizer steps.

Converts a pack of real data (ACDC in 2D, LA in 3D, ACDC with the public scribbles or with points made from its masks, as they
are or expanded by geodesic distance, LA in 2D with boxes made from its masks), plans and preprocesses it, trains nnUNetTrainer
and the trainers named, each with every seed, evaluates them and writes a table with Dice, 95HD, time and memory. Every step is a
public command that is printed; its output is in `logs/`. Called again with the same arguments it continues: finished runs stay
as they are, an unfinished one goes on from its last epoch. Everything of one data set, number of labels and plan lies in one
folder below --out, so that studies of other lengths, seeds or trainers share the preprocessed data. Start only one study at a
time in it.

By default a small network on small patches is trained on CPU, and on a GPU what nnU-Net plans itself (--plan). Numbers with
the small plan compare methods with each other; they are below what nnU-Net's own plan reaches. On sparse labels nnUNetTrainer is
nnU-Net with its ignore label; all trainers are evaluated on dense masks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measured_training import VALIDATED
from nnunet_ssl.commands.steps import Step, child_environment, run_command, run_steps
from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.discovery.variants import find_trainer, trainer_classes
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.runs import Experiment, case_files, find_run
from nnunet_ssl.evaluation.statistics import FOREGROUND
from nnunet_ssl.evaluation.tables import markdown_table
from tests.helpers.paths import REPOSITORY, SHARED

EXAMPLE = """\
examples:
  python benchmarks/quick_study.py ACDC --labeled 7 --out study -tr nnUNetTrainerMeanTeacher nnUNetTrainerCPS --seeds 0 1 2
  python benchmarks/quick_study.py LA --out study -tr nnUNetTrainerBCP --epochs 4 --jobs 2 --disable_tta
  python benchmarks/quick_study.py ACDC --labeled 3 --out study -tr nnUNetTrainerFilterMatch --epochs 100 --device cuda
  python benchmarks/quick_study.py ACDC_scribbles --out study -tr nnUNetTrainerScribbleDMPLS nnUNetTrainerScribbleGatedCRF
  python benchmarks/quick_study.py ACDC --labeled 7 --out study -tr nnUNetTrainerCPS --report    (a look while it runs)"""

VANILLA = "nnUNetTrainer"
EVERYONE = "all"  # instead of a number of labeled patients
STATE_FILE = "quick_study.json"
METRICS = {"Dice": "%", "95HD": "mm"}


@dataclass(frozen=True)
class Pack:
    """A data set of the pack, and the small plan for it."""

    folder: str  # below ../shared/data
    dataset_id: int
    dataset: str
    configuration: str
    labeled: str
    patch: tuple[int, ...]  # voxels
    batch_size: int
    features: tuple[int, ...]  # per stage
    spacing: tuple[str, ...] = ()  # mm, of the small plan; (): as planned
    test: bool = False  # always on the test cases
    converter: str = ""  # of `nnunet_ssl convert`; "": the name of the pack
    options: tuple[str, ...] = ()  # of the converter; {packs}: the folder of all packs
    dense_id: int | None = None  # of the data set that `weaken` makes sparse
    weaken: tuple[str, ...] = ()  # its options
    sparse_id: int | None = None  # of the data set that `expand` makes denser again
    expand: tuple[str, ...] = ()  # its options


PACKS = {
    "ACDC": Pack("acdc", 27, "Dataset027_ACDC", "2d", "7", (96, 96), 8, (16, 32, 64, 128)),
    # coarser than published (0.625 mm), so that a small patch covers most of an image; without a validation list, fold 0
    # validates on the labeled cases, so that only the test cases tell something
    "LA": Pack(
        "la", 101, "Dataset101_LA", "3d_fullres", "8", (32, 48, 48), 2, (16, 32, 64, 128), ("2",) * 3, test=True
    ),
}
PACKS["ACDC_scribbles"] = replace(
    PACKS["ACDC"],
    dataset_id=127,
    dataset="Dataset127_ACDCscribbles",
    labeled=EVERYONE,
    converter="ACDC",
    options=("-name", "ACDCscribbles", "--scribbles", "{packs}/acdc_scribbles", "--split_patients", "wsl4mis"),
)
PACKS["ACDC_points"] = replace(
    PACKS["ACDC"],
    dataset_id=128,
    dataset="Dataset128_ACDCpoints",
    labeled=EVERYONE,
    converter="ACDC",
    dense_id=PACKS["ACDC"].dataset_id,
    weaken=("-name", "ACDCpoints", "--kind", "points"),
)
# As PA-Seg begins. In four frames, a third to four fifths of what becomes myocardium at the default threshold of 0.2 is something
# else; at this one a tenth to a quarter.
PACKS["ACDC_points_expanded"] = replace(
    PACKS["ACDC_points"],
    dataset_id=129,
    dataset="Dataset129_ACDCexpanded",
    sparse_id=PACKS["ACDC_points"].dataset_id,
    expand=("-name", "ACDCexpanded", "--method", "geodesic", "--threshold", "0.05"),
)
# One class, so that every box is of it. In 2D, where a tight box says most. The seeds (3 voxels of 0.625 mm around the innermost
# one) still have voxels at 2 mm.
PACKS["LA_boxes"] = replace(
    PACKS["ACDC"],
    folder="la",
    dataset_id=201,
    dataset="Dataset201_LAboxes",
    labeled=EVERYONE,
    spacing=("2",) * 3,
    test=True,
    converter="LA",
    dense_id=PACKS["LA"].dataset_id,
    weaken=("-name", "LAboxes", "--kind", "boxes", "--radius", "3"),
)


@dataclass(frozen=True)
class Settings:
    """What the data of a folder depend on."""

    pack: str
    data: str
    labeled: str
    plan: str  # "small" or "nnunet"
    patch: tuple[int, ...]
    batch_size: int
    features: tuple[int, ...]

    @property
    def configuration(self) -> str:
        base = PACKS[self.pack].configuration
        return f"{base}_small" if self.plan == "small" else base


@dataclass(frozen=True)
class Training:
    """One run of one trainer."""

    trainer: str
    seed: int
    epochs: int
    iterations: int  # per epoch

    @property
    def name(self) -> str:
        return f"{self.trainer}_{self.epochs}epochs_{self.iterations}iters_seed{self.seed}"


class Stopped(Exception):
    """The study ends before this run does."""


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", choices=PACKS, help="data set")
    defaults = ", ".join(f"{name} {pack.labeled}" for name, pack in PACKS.items())
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="work folder")
    parser.add_argument(
        "-tr",
        nargs="*",
        default=[],
        metavar="TRAINER",
        help=f"trainers without suffixes; {VANILLA} is always the first",
    )
    parser.add_argument("--labeled", default=None, metavar="N", help=f"labeled patients or cases. Default: {defaults}")
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="Default: 6")
    parser.add_argument("--iters", type=int, default=250, metavar="N", help="steps per epoch. Default: 250")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="Default: 0")
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="Default: cpu")
    parser.add_argument(
        "--plan", choices=["small", "nnunet"], default=None, help="Default: small on CPU, nnunet on a GPU"
    )
    parser.add_argument("--patch_size", type=int, nargs="+", default=None, metavar="N", help="of the small plan")
    parser.add_argument("--batch_size", type=int, default=None, metavar="N", help="of the small plan")
    parser.add_argument(
        "--features", type=int, nargs="+", default=None, metavar="N", help="per stage, of the small plan"
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="evaluate on the test cases (always so for LA), not on the validation of fold 0",
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="validate or predict without mirroring: 4 (2D) or 8 times faster"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side. Default: 1")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="background workers of each run. Default: 2")
    parser.add_argument("--report", action="store_true", help="only evaluate the runs that are finished")
    parser.add_argument(
        "--data", type=Path, default=None, metavar="DIR", help="a copy of the data set. Default: ../shared/data/..."
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 after an error, and when a run failed (the others are done all the same)."""
    args = parse_arguments(words)
    try:
        return run(args)
    except UserError as error:
        print(f"\nquick_study: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    pack, settings = PACKS[args.pack], settings_of(args)
    trainings = trainings_of(args)
    root = args.out.absolute() / f"{args.pack}_{settings.labeled}_{settings.plan}"
    environment = environment_of(root, args)
    os.environ.update(environment)
    experiment = Experiment(pack.dataset, settings.configuration)
    test = args.test or pack.test
    validation = None if test else {"mirroring": not args.disable_tta}

    print(f"Work folder: {root}")
    if not args.report:
        prepare(root, settings, preparing_steps(settings, args.np), environment)
        if test and not case_files(root / "nnUNet_raw" / pack.dataset / "labelsTs", ".nii.gz"):
            raise UserError(
                f"{settings.data} holds no test cases of {args.pack}. Leave out --test, or give a copy with them (--data)."
            )
        failed = train(root, trainings, experiment, validation, args, environment)
    finished = [training for training in trainings if next_switches(experiment, training, validation) is None]
    seeds = [seed for seed in args.seeds if any(t.trainer == VANILLA and t.seed == seed for t in finished)]
    if not seeds:
        raise UserError(f"no run of {VANILLA} is finished, which the others are compared with. See {root / 'logs'}.")
    output = root / f"{args.epochs}epochs_{args.iters}iters{'_test' if test else ''}"
    summaries = {}
    for seed in seeds:
        names = [training.name for training in finished if training.seed == seed]
        summaries[seed] = compare(root, output / f"compare_seed{seed}", experiment, names, test, args, environment)
    table = study_table([t for t in finished if t.seed in seeds], summaries, experiment)
    notes = head_notes(settings, experiment, test, args)
    missing = [training.name for training in trainings if training not in finished]
    write_report(output, table, notes, missing, f"{args.pack}, {settings.labeled} labeled")
    print((output / "quick_study.md").read_text(encoding="utf-8"))
    print(f"Written to {output}: quick_study.md, quick_study.csv, quick_study.png, and compare_seed*/compare.md")
    return 1 if not args.report and failed else 0


# ------------------------------------------------------------------------------------------------------------- settings


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the arguments ask for. UserError for data that are not there and options that do not fit."""
    pack = PACKS[args.pack]
    data = (SHARED / "data" / pack.folder if args.data is None else args.data).absolute()
    if not data.is_dir():
        raise UserError(
            f"{data} is no folder. The pack of real data lies in ../shared/data beside the checkout; name another copy of "
            f"{args.pack} with --data."
        )
    if min(args.epochs, args.iters, args.jobs, args.np) < 1 or min(args.seeds) < 0:
        raise UserError("--epochs, --iters, --jobs and -np must be at least 1, --seeds at least 0.")
    plan = args.plan or ("small" if args.device == "cpu" else "nnunet")
    small = {"--patch_size": args.patch_size, "--batch_size": args.batch_size, "--features": args.features}
    if plan == "nnunet" and any(small.values()):
        given = ", ".join(option for option, value in small.items() if value)
        raise UserError(f"{given}: only for --plan small; nnU-Net plans its own.")
    return Settings(
        pack=args.pack,
        data=str(data),
        labeled=args.labeled or pack.labeled,
        plan=plan,
        patch=tuple(args.patch_size or pack.patch),
        batch_size=args.batch_size or pack.batch_size,
        features=tuple(args.features or pack.features),
    )


def trainings_of(args: argparse.Namespace) -> list[Training]:
    """Vanilla first, seed by seed, so that what is finished can be compared early. UserError for an unknown trainer."""
    for name in args.tr:
        if name != VANILLA and name not in trainer_classes():
            raise UserError(
                f"-tr {name}: allowed, without suffixes, are {', '.join(trainer_classes())}. Length and seed are set by "
                "--epochs, --iters and --seeds."
            )
    trainers = list(dict.fromkeys([VANILLA, *args.tr]))
    seeds = list(dict.fromkeys(args.seeds))
    trainings = [Training(trainer, seed, args.epochs, args.iters) for seed in seeds for trainer in trainers]
    for training in trainings:
        find_trainer(training.name)
    return trainings


def environment_of(root: Path, args: argparse.Namespace) -> dict[str, str]:
    environment = child_environment(root, args.np)
    # the commands work with the package of this checkout
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    if args.device == "cpu":
        # glibc returns large tensors to the system and maps them anew each time, which doubles the time of a 3D step
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
        environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))
    return environment


# ------------------------------------------------------------------------------------------------- data and trainings


def prepare(root: Path, settings: Settings, steps: Sequence[Step], environment: Mapping[str, str]) -> None:
    """Convert, plan and preprocess, unless it is done. UserError where the folder holds data of other settings."""
    file = root / STATE_FILE
    state = {"settings": json.loads(json.dumps(vars(settings))), "seconds": {}}
    if file.is_file():
        present = json.loads(file.read_text(encoding="utf-8"))
        different = [
            f"{key} {present['settings'][key]} (now {value})"
            for key, value in state["settings"].items()
            if present["settings"][key] != value
        ]
        if different:
            raise UserError(f"{root} holds data of other settings: {', '.join(different)}. Name another --out.")
        state = present
    (root / "logs").mkdir(parents=True, exist_ok=True)
    run_steps(
        root,
        steps,
        state["seconds"],
        lambda: write_json_atomically(state, file),
        environment,
    )


def preparing_steps(settings: Settings, num_processes: int, pack: Pack | None = None) -> list[Step]:
    """Conversion, planning, and the small configuration. `pack`: another one than that of the settings."""
    pack = pack or PACKS[settings.pack]
    dataset, np = str(pack.dataset_id), str(num_processes)
    made = [str(number) for number in (pack.dense_id, pack.sparse_id, pack.dataset_id) if number is not None]
    converted = made[0]
    convert = ["nnunet_ssl", "convert", pack.converter or settings.pack, "-i", settings.data, "-d", converted]
    convert += [option.format(packs=Path(settings.data).parent) for option in pack.options]
    convert += ["-np", np] if settings.labeled == EVERYONE else ["--labeled", settings.labeled, "-np", np]
    plan = ["nnunet_ssl", "plan_and_preprocess", "-d", dataset, "-c", pack.configuration, "-np", np, "-npfp", np]
    if settings.plan == "small" and pack.spacing:
        plan += ["-overwrite_target_spacing", *pack.spacing]
    steps = [Step("convert", "convert to nnU-Net raw format", convert)]
    if pack.weaken:
        weaken = ["nnunet_ssl", "weaken", "-d", converted, "-o", made[1], *pack.weaken, "-np", np]
        steps.append(Step("weaken", "make the labels sparse", weaken))
    if pack.expand:
        expand = ["nnunet_ssl", "expand", "-d", made[-2], "-o", dataset, *pack.expand, "-np", np]
        steps.append(Step("expand", "expand the labels", expand))
    steps.append(Step("plan_and_preprocess", "plan and preprocess", plan))
    if settings.plan == "small":
        small = ["python", "-m", "nnunet_ssl.plans.small", "-d", dataset, "-b", pack.configuration, "--patch_size"]
        small += [*map(str, settings.patch), "--batch_size", str(settings.batch_size)]
        small += ["--features", *map(str, settings.features)]
        steps.append(Step("small", "add a small configuration", small))
    return steps


def next_switches(experiment: Experiment, training: Training, validation: dict | None) -> list[str] | None:
    """What `nnUNetv2_train` needs to bring a run to its end, judged by what lies in its folder; None if it is finished.

    Args:
        validation: how the final validation must have been made; None: there need not be one.
    """
    folder = experiment.model_folder(training.name) / "fold_0"
    if (folder / "checkpoint_final.pth").is_file():
        record = folder / VALIDATED
        made = json.loads(record.read_text()) if record.is_file() else None
        return None if validation is None or made == validation else ["--val"]
    begun = any((folder / name).is_file() for name in ("checkpoint_latest.pth", "checkpoint_best.pth"))
    return ["--c"] if begun else []


def train(
    root: Path,
    trainings: Sequence[Training],
    experiment: Experiment,
    validation: dict | None,
    args: argparse.Namespace,
    environment: Mapping[str, str],
) -> list[str]:
    """Bring all runs to their end, `--jobs` at a time. Returns the names of those that failed, which are printed."""
    epochs = {training.name: 0 for training in trainings}  # of each run, how many are done
    running: list[str] = []
    stop = threading.Event()

    def train_one(training: Training, switches: list[str]) -> None:
        def report(epoch: int | None) -> None:
            if stop.is_set():
                raise Stopped
            epochs[training.name] = epoch or 0

        if stop.is_set():
            raise Stopped
        running.append(training.name)
        try:
            command = train_command(experiment, training, validation, switches, args)
            tqdm.write(f"$ {shlex.join(command)}")
            run_command(command, root / "logs" / f"train_{training.name}.txt", environment, report)
            epochs[training.name] = training.epochs
        finally:
            running.remove(training.name)

    pool = ThreadPoolExecutor(args.jobs)
    futures, failed = {}, []
    for training in trainings:
        switches = next_switches(experiment, training, validation)
        if switches is None:
            epochs[training.name] = training.epochs
        else:
            futures[pool.submit(train_one, training, switches)] = training
    print(f"{len(trainings)} runs, {len(trainings) - len(futures)} of them finished before")
    interval = 0.5 if sys.stderr.isatty() else 60  # in a file, every update is a line
    total = sum(training.epochs for training in trainings)
    try:
        with tqdm(total=total, unit="epoch", initial=sum(epochs.values()), mininterval=interval) as bar:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=interval, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if isinstance(error, UserError):
                        failed.append(futures[future].name)
                        tqdm.write(f"{futures[future].name}: {error}", file=sys.stderr)
                    elif error is not None:
                        raise error
                bar.set_postfix_str(", ".join(running), refresh=False)
                bar.update(sum(epochs.values()) - bar.n)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return failed


def train_command(
    experiment: Experiment,
    training: Training,
    validation: dict | None,
    switches: Sequence[str],
    args: argparse.Namespace,
) -> list[str]:
    script = Path(__file__).with_name("measured_training.py")
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    command = ["python", str(script), "--measured", str(measured_file(experiment, training)), "--threads", str(threads)]
    if validation is None:
        command.append("--no_validation")
    if args.disable_tta:
        command.append("--disable_tta")
    command += [str(int(experiment.dataset[7:10])), experiment.configuration, "0", "-tr", training.name]
    return [*command, "-device", args.device, *switches]


def measured_file(experiment: Experiment, training: Training) -> Path:
    return experiment.model_folder(training.name) / "fold_0" / "measured.json"


# ---------------------------------------------------------------------------------------------------------- evaluation


def compare(
    root: Path,
    output: Path,
    experiment: Experiment,
    names: Sequence[str],
    test: bool,
    args: argparse.Namespace,
    environment: Mapping[str, str],
) -> pd.DataFrame:
    """`nnunet_ssl compare` of finished runs, the first of them vanilla; its `compare_summary.csv`."""
    dataset = str(int(experiment.dataset[7:10]))
    command = ["nnunet_ssl", "compare", "-d", dataset, "-c", experiment.configuration, "-f", "0", "-tr", *names]
    command += ["-o", str(output), "-device", args.device, "-np", str(args.np), "--overwrite"]
    if test:
        command += ["--test", *(["--disable_tta"] if args.disable_tta else [])]
    print(f"$ {shlex.join(command)}")
    run_command(command, root / "logs" / f"{output.parent.name}_{output.name}.txt", environment)
    return pd.read_csv(output / "compare_summary.csv")


def study_table(
    trainings: Sequence[Training], summaries: Mapping[int, pd.DataFrame], experiment: Experiment
) -> pd.DataFrame:
    """One row per run.

    Columns: trainer, seed, iterations, then for Dice (%) and 95HD (mm) the mean over cases of each class, the foreground mean
    `<metric> mean` with its interval, and `<metric> difference` of this mean to vanilla's of the same seed, `p` of the paired
    test; `missed` (predictions without an object that is there; they have no 95HD), seconds per step, peak memory.
    """
    rows = []
    for training in trainings:
        summary = summaries[training.seed]
        run = find_run(experiment, training.name, 0, "checkpoint_final.pth")
        row = {"trainer": training.trainer, "seed": training.seed, "iterations": run.epochs * run.iterations_per_epoch}
        for metric in METRICS:
            of_metric = summary[summary["metric"].eq(metric) & summary["unit"].eq(METRICS[metric])]
            found = of_metric[of_metric["trainer"].eq(training.name)].set_index("class")
            for name in found.index.drop(FOREGROUND):
                row[f"{metric} {name}"] = found.loc[name, "mean"]
            row[f"{metric} mean"] = mean = found.loc[FOREGROUND, "mean"]
            row |= {f"{metric} {end}": found.loc[FOREGROUND, end] for end in ("ci_low", "ci_high")}
            is_vanilla = training.trainer == VANILLA
            vanilla = of_metric[of_metric["trainer"].str.startswith(f"{VANILLA}_")].set_index("class")
            row[f"{metric} difference"] = math.nan if is_vanilla else mean - vanilla.loc[FOREGROUND, "mean"]
            row[f"{metric} p"] = math.nan if is_vanilla else found.loc[FOREGROUND, "p"]
        row["missed"] = found.loc[FOREGROUND, "n_empty_prediction"]
        file = measured_file(experiment, training)
        measured = json.loads(file.read_text()) if file.is_file() else {}
        if measured.get("seconds"):
            row["seconds per step"] = statistics.median(measured["seconds"])
            row["peak memory (MiB)"] = measured["peak_memory_bytes"] / 2**20
        rows.append(row)
    return pd.DataFrame(rows)


def head_notes(settings: Settings, experiment: Experiment, test: bool, args: argparse.Namespace) -> list[list[str]]:
    """The conditions of the study, as (name, value) rows of the report."""
    import torch

    plans = Path(os.environ["nnUNet_preprocessed"]) / experiment.dataset / "nnUNetPlans.json"
    configuration = json.loads(plans.read_text())["configurations"][experiment.configuration]
    split = json.loads((plans.parent / "splits_final.json").read_text())[0]
    patch = " x ".join(map(str, configuration["patch_size"]))
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    cases = "test cases" if test else "validation cases of fold 0"
    return [
        ["data", f"{settings.pack}, {settings.labeled} labeled ({len(split['train'])} images of fold 0)"],
        ["configuration", f"{experiment.configuration}, patch {patch}, {configuration['batch_size']} labeled patches"],
        ["evaluated on", f"{cases}, {'without' if args.disable_tta else 'with'} mirroring"],
        ["device", f"{args.device} ({device}), {args.jobs} runs side by side, torch {torch.__version__}"],
    ]


def write_report(output: Path, table: pd.DataFrame, notes: list[list[str]], missing: Sequence[str], title: str) -> None:
    """`quick_study.md`, `.csv` and `.png`."""
    output.mkdir(parents=True, exist_ok=True)
    table.to_csv(output / "quick_study.csv", index=False)
    parts = [f"# Quick study: {title}", markdown_table(["", ""], notes)]
    if missing:
        parts.append(f"Not finished, and so not in the table: {', '.join(missing)}.")
    parts += ["## Runs", markdown_table(*_shown(table, ["trainer", "seed", "iterations"]))]
    if table["seed"].nunique() > 1:
        numbers = table.select_dtypes("number").columns.drop(["seed", "iterations"])
        over_seeds = table.groupby("trainer", sort=False)[list(numbers)].mean().reset_index()
        over_seeds.insert(1, "seeds", table.groupby("trainer", sort=False)["seed"].nunique().to_numpy())
        for metric in METRICS:  # one seed has no spread: NaN
            spread = table.groupby("trainer", sort=False)[f"{metric} mean"].std()
            over_seeds[f"{metric} std"] = spread.to_numpy()
        parts += ["## Means over seeds", markdown_table(*_shown(over_seeds, ["trainer", "seeds"]))]
    parts.append(
        "Means over cases, Dice in %, 95HD in mm; *mean*: over the classes; *difference* to nnUNetTrainer of the same seed; *std*: "
        "over seeds. Intervals, paired tests and definitions: compare.md of each seed. *missed*: predictions without an object "
        "that is there, which have no 95HD. *s/step*: median wall time of a training step without waiting for data; runs side "
        "by side slow each other. *memory*: largest resident set of the main process on CPU, tensors on a GPU."
    )
    (output / "quick_study.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw_figure(output / "quick_study.png", table, title)


def _shown(table: pd.DataFrame, first: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the report's table: the columns of the CSV but intervals and p values, rounded."""
    kinds = ("ci_low", "ci_high", "p")
    columns = [c for c in table.columns if c not in first and not (c.split()[0] in METRICS and c.split()[1] in kinds)]
    digits = {"seconds per step": 3, "peak memory (MiB)": 0, "missed": 0}
    names = {"seconds per step": "s/step", "peak memory (MiB)": "memory (MiB)"}

    def cell(column: str, value: float) -> str:
        sign = "+" if column.endswith("difference") else ""
        return "-" if pd.isna(value) else f"{value:{sign}.{digits.get(column, 2)}f}"

    rows = [[*(str(row[c]) for c in first), *(cell(c, row[c]) for c in columns)] for row in table.to_dict("records")]
    return [*first, *(names.get(c, c) for c in columns)], rows


def draw_figure(file: Path, table: pd.DataFrame, title: str) -> None:
    """Foreground means of Dice and 95HD with their intervals, one line per run, and vanilla's as a vertical line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.4 + 0.32 * len(table)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(METRICS), sharey=True)
    for axis, (metric, unit) in zip(axes, METRICS.items()):
        for position, row in enumerate(table.to_dict("records")):
            color = "0.3" if row["trainer"] == VANILLA else "#0072B2"
            axis.plot([row[f"{metric} ci_low"], row[f"{metric} ci_high"]], [position] * 2, color=color, linewidth=1.5)
            axis.plot(row[f"{metric} mean"], position, "o", color=color, markersize=5)
        vanilla = table.loc[table["trainer"].eq(VANILLA), f"{metric} mean"].mean()
        axis.axvline(vanilla, color="0.3", linestyle="--", linewidth=0.8)
        axis.set_xlabel(f"{metric} ({unit})")
        axis.grid(axis="x", color="0.9")
    axes[0].set_yticks(
        range(len(table)),
        [f"{t.removeprefix('nnUNetTrainer') or 'nnU-Net'}, seed {s}" for t, s in zip(table["trainer"], table["seed"])],
    )
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(f"{title}: means over cases and classes, 95 % intervals over cases", fontsize=10)
    figure.savefig(file)


def end_trainings_on_sigterm() -> None:
    """So that `finally` ends the trainings, which are process groups of their own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


if __name__ == "__main__":
    end_trainings_on_sigterm()
    sys.exit(main())
