"""`nnunet_ssl demo`: everything once, in minutes, with the commands that a user would type.

Phantoms (or, with --data, a real copy of LA) are converted, planned and preprocessed; nnU-Net's own trainer, the recommended
one and Mean Teacher are trained on few labels, predict the test cases and are compared. Every step but the first and the last
is a public command: it is printed, run as a process of its own, and its output kept in `logs/`.

The networks are small (`nnunet_ssl.plans.small`) and the runs short, so the numbers say that everything works and
not how good a method is.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_ssl.commands.steps import Step, child_environment, run_steps
from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.ownership import (
    file_state,
    foreign_files,
    in_record,
    refuse_to_replace,
    remove_folder,
    write_record,
)
from nnunet_ssl.errors import UserError

DESCRIPTION = """\
Phantoms -> convert -> plan and preprocess -> train nnU-Net, SemiSupervised and Mean Teacher -> predict -> compare, with
the public commands, which are printed. Ends with a table, a figure of image, truth and predictions, and the commands
for your own data. Small networks and short runs: it shows that everything works, not how good a method is. Run
again, it continues where it stopped."""
EXAMPLE = """\
example:
  nnunet_ssl demo
  nnunet_ssl demo --data 2018_LA -o demo_on_la --labeled 8 -device cuda"""

DATASET_ID = 101
DATASET = "Dataset101_LA"
FORMAT = 2  # of the work folder: which steps there are
# Head-room, 320 steps, seed 0: Dice on the 8 others is 65.7 with 3 labeled cases (nnU-Net), 78.8 with 24
N_TRAIN, N_TEST = 24, 8
TRAINERS = {
    "nnUNetTrainer": "nnU-Net",
    "nnUNetTrainerSemiSupervised": "SemiSupervised",
    "nnUNetTrainerMeanTeacher": "Mean Teacher",
}
NEXT = """\
Next, your own data: labeled cases in $nnUNet_raw/Dataset102_NAME as always with nnU-Net, unlabeled images in its folder imagesUn.
  nnunet_ssl plan_and_preprocess -d 102 -c 3d_fullres
  nnUNetv2_train 102 3d_fullres 0 -tr nnUNetTrainerSemiSupervised
  nnUNetv2_predict -i $nnUNet_raw/Dataset102_NAME/imagesTs -o pred -d 102 -c 3d_fullres -f 0 -tr nnUNetTrainerSemiSupervised"""
STATE_FILE, TABLE_FILE, FIGURE_FILE = "demo.json", "comparison", "demo.png"
MADE_HERE = ("phantoms", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "logs", TABLE_FILE)


@dataclass(frozen=True)
class Size:
    """Network and batch of a configuration, small enough for two CPU cores."""

    largest_patch: tuple[int, ...]  # voxels; the planned patch where that is smaller
    batch_size: int
    features: tuple[int, ...]  # per stage
    epochs: int
    iterations: int  # per epoch


SIZES = {
    "2d": Size((128, 128), 8, (16, 32, 64, 64), 4, 80),
    "3d_fullres": Size((32, 64, 64), 2, (8, 16, 32, 64), 4, 60),
}


@dataclass(frozen=True)
class Settings:
    """What the results of the demo depend on; a work folder belongs to one of them."""

    data: str | None  # real LA folder; None: phantoms
    labeled: str
    config: str
    epochs: int
    iterations: int
    seed: int

    @property
    def trainers(self) -> dict[str, str]:
        """Full name of each trainer -> how it is called."""
        suffix = f"_{self.epochs}epochs_{self.iterations}iters_seed{self.seed}"
        return {f"{trainer}{suffix}": label for trainer, label in TRAINERS.items()}

    @property
    def small_config(self) -> str:
        return f"{self.config}_small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default=None, metavar="DIR", help="[OPTIONAL] a copy of LA in place of phantoms")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("nnunet_ssl_demo"),
        metavar="DIR",
        help="[OPTIONAL] work folder. Default: ./nnunet_ssl_demo",
    )
    parser.add_argument(
        "-device", default="cpu", choices=["cpu", "cuda", "mps"], help="[OPTIONAL] where to train. Default: cpu"
    )
    parser.add_argument(
        "--labeled",
        default=None,
        metavar="N",
        help="[OPTIONAL] labeled cases, their number or share (10%%). Default: 3, with --data 8",
    )
    parser.add_argument("--config", default="2d", choices=list(SIZES), help="[OPTIONAL] configuration. Default: 2d")
    parser.add_argument(
        "--epochs", type=int, default=None, metavar="N", help=f"[OPTIONAL] Default: {SIZES['2d'].epochs}"
    )
    parser.add_argument(
        "--iters",
        type=int,
        default=None,
        metavar="N",
        help="[OPTIONAL] iterations per epoch. Default: "
        + ", ".join(f"{size.iterations} ({config})" for config, size in SIZES.items()),
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="[OPTIONAL] phantoms and networks. Default: 0")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="[OPTIONAL] number of processes. Default: 2")
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] start anew in an existing work folder")


def run(args: argparse.Namespace) -> None:
    size = SIZES[args.config]
    settings = Settings(
        data=None if args.data is None else str(Path(args.data).absolute()),
        labeled=args.labeled or ("3" if args.data is None else "8"),
        config=args.config,
        epochs=size.epochs if args.epochs is None else args.epochs,
        iterations=size.iterations if args.iters is None else args.iters,
        seed=args.seed,
    )
    if min(settings.epochs, settings.iterations) < 1 or settings.seed < 0 or args.np < 1:
        raise UserError("--epochs, --iters and -np must be at least 1, --seed at least 0.")
    if args.data is not None and not Path(args.data).is_dir():
        raise UserError(f"--data {args.data} is no folder. Give a copy of LA, or leave it out for phantoms.")
    work = args.output.absolute()
    state = _open_work_folder(work, settings, args.overwrite)
    foreign = {path: file_state(work / path) for path in foreign_files(work, in_record(work))}
    save = partial(_save_state, work, state, settings, foreign)
    save()
    environment = child_environment(work, args.np)
    steps = plan_steps(work, settings, args.device, args.np)
    print("The commands below use these folders. To repeat one of them:")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        print(f"  export {name}={shlex.quote(environment[name])}")
    try:
        run_steps(work, steps, state["seconds"], save, environment)
    finally:  # what an interrupted step leaves is the demo's too
        save()
    print()
    print((work / TABLE_FILE / "compare.md").read_text(encoding="utf-8"))
    minutes, seconds = divmod(round(sum(state["seconds"].values())), 60)
    slowest = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in state["seconds"].items())
    print(f"Time: {minutes} min {seconds:02d} s ({slowest})")
    print(f"Figure: {work / FIGURE_FILE}\nTable:  {work / TABLE_FILE / 'compare.md'}\n\n{NEXT}")


def plan_steps(work: Path, settings: Settings, device: str, num_processes: int) -> list[Step]:
    """All steps in their order. Commands are lists of words that begin with the name of the console command."""
    source = work / "phantoms" if settings.data is None else Path(settings.data)
    dataset, config, np = str(DATASET_ID), settings.small_config, str(num_processes)
    steps = []
    if settings.data is None:
        steps.append(Step("phantoms", "draw phantoms", lambda: _write_phantoms(source, settings.seed), (source,)))
    steps += [
        Step(
            "convert",
            "convert to nnU-Net raw format",
            ["nnunet_ssl", "convert", "LA", "-i", str(source), "-d", dataset, "--labeled", settings.labeled, "-np", np],
        ),
        Step(
            "plan_and_preprocess",
            "plan and preprocess",
            ["nnunet_ssl", "plan_and_preprocess", "-d", dataset, "-c", settings.config, "-np", np, "-npfp", np],
        ),
        Step(
            "small",
            "add a small configuration",
            lambda: _add_small_configuration(work, settings.config),
        ),
    ]
    for trainer, label in settings.trainers.items():
        model = model_folder(work, trainer, settings)
        words = ["nnUNetv2_train", dataset, config, "0", "-tr", trainer, "-device", device]
        steps.append(Step(f"train_{trainer}", f"train {label}", words, (model,)))
    words = ["nnunet_ssl", "compare", "-d", dataset, "-c", config, "-f", "0", "-tr", *settings.trainers, "--test"]
    words += ["-o", str(work / TABLE_FILE), "-device", device, "-np", np]
    steps.append(Step("compare", "predict and compare the test cases", words, (work / TABLE_FILE,)))
    steps.append(Step("figure", "draw the figure", lambda: draw_figure(work, settings)))
    return steps


def model_folder(work: Path, trainer: str, settings: Settings) -> Path:
    return work / "nnUNet_results" / DATASET / f"{trainer}__nnUNetPlans__{settings.small_config}"


def _is_made_here(path: str, settings: Settings) -> bool:
    """Whether the demo writes below its work folder under such a name."""
    first, *below = path.split("/")
    if first == "nnUNet_results":
        models = [model_folder(Path(), trainer, settings).name for trainer in settings.trainers]
        return len(below) > 2 and below[0] == DATASET and below[1] in models
    if first.startswith("nnUNet_"):
        return first in MADE_HERE and len(below) > 1 and below[0] == DATASET
    return first in ((STATE_FILE, FIGURE_FILE) if not below else MADE_HERE)


def _open_work_folder(work: Path, settings: Settings, overwrite: bool) -> dict:
    """The state of an earlier run with the same settings, or a new one.

    Raises:
        UserError: a folder of something else, other settings, or files that the demo has not written where it is to start anew.
    """
    file = work / STATE_FILE
    if settings.data is not None and Path(settings.data).resolve().is_relative_to(work.resolve()):
        raise UserError(f"--data {settings.data} lies in the work folder {work}. Name another work folder with -o.")
    if file.is_file():
        present = read_json(file, remedy="Name another folder with -o.")
        found = present.get("settings")
        if not (isinstance(found, dict) and found.keys() == vars(settings).keys() and "seconds" in present):
            raise UserError(
                f"{file} was not written by `nnunet_ssl demo`, or by another version. Name another folder with -o."
            )
        different = [
            f"{key} {found[key]} (now {value})" for key, value in vars(settings).items() if found[key] != value
        ]
        if present.get("format") != FORMAT:
            different = ["it was made by another version of nnunet_ssl", *different]
        if overwrite:
            # a demo that was killed leaves files that no record has
            refuse_to_replace(
                work, [], "another folder with -o (run without --overwrite, a demo that was killed goes on)"
            )
            remove_folder(work)
        elif different:
            raise UserError(
                f"{work} holds a demo with other settings: {', '.join(different)}. Name another folder with -o, or "
                f"replace it with --overwrite."
            )
        else:
            return present
    elif work.exists() and any(work.iterdir()):
        raise UserError(f"{work} is not empty and holds no demo. Name a new folder with -o.")
    (work / "logs").mkdir(parents=True)
    return {"format": FORMAT, "settings": vars(settings), "seconds": {}}


def _save_state(work: Path, state: Mapping, settings: Settings, foreign: Mapping[str, list[int]]) -> None:
    """Write the state, and record the demo's files.

    Args:
        foreign: path -> state of what was there before and is not the demo's, unless it has written the file anew.
    """
    write_json_atomically(state, work / STATE_FILE)
    write_record(
        work,
        lambda path: (
            _is_made_here(path, settings) and (path not in foreign or foreign[path] != file_state(work / path))
        ),
    )


def _write_phantoms(root: Path, seed: int) -> None:
    from nnunet_ssl.data.phantoms import write_la_phantoms

    write_la_phantoms(root, N_TRAIN, N_TEST, seed)


def _add_small_configuration(work: Path, config: str) -> None:
    """Add the small configuration and print the command that does the same; the patch depends on the plans."""
    from tqdm import tqdm

    from nnunet_ssl.plans.small import add_small_configuration

    plans_file = work / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    size = SIZES[config]
    planned = read_json(plans_file)["configurations"][config]["patch_size"]
    patch = [min(ours, theirs) for ours, theirs in zip(size.largest_patch, planned, strict=True)]
    words = ["python", "-m", "nnunet_ssl.plans.small", "-d", str(DATASET_ID), "-b", config, "--patch_size", *patch]
    words += ["--batch_size", size.batch_size, "--features", *size.features]
    tqdm.write(f"$ {shlex.join(map(str, words))}")
    add_small_configuration(plans_file, config, patch, size.batch_size, size.features)


def draw_figure(work: Path, settings: Settings) -> None:
    """The worst, the median and the best test case of nnU-Net, as all trainers predict them."""
    import pandas as pd

    from nnunet_ssl.evaluation.predictions_figure import write_predictions_figure

    table = pd.read_csv(work / TABLE_FILE / "compare_cases.csv")
    dice = table[table["metric"] == "Dice"].groupby(["trainer", "case"])["value"].mean()
    of_nnunet = dice[next(iter(settings.trainers))].sort_values(na_position="first")
    places = {"worst": 0, "median": len(of_nnunet) // 2, "best": len(of_nnunet) - 1}
    shown: dict[str, str] = {}
    for name, place in places.items():
        shown.setdefault(of_nnunet.index[place], f"{name} case of nnU-Net")
    raw = work / "nnUNet_raw" / DATASET
    predictions = {
        f"{label}\nmean Dice {dice[trainer].mean():.1f} %": model_folder(work, trainer, settings) / "test_folds_0"
        for trainer, label in settings.trainers.items()
    }
    title = (
        f"{settings.labeled} labeled cases, {settings.epochs * settings.iterations} steps each, {len(of_nnunet)} test cases; "
        "truth green, prediction orange"
    )
    write_predictions_figure(work / FIGURE_FILE, raw / "imagesTs", raw / "labelsTs", predictions, shown, title)
