"""Commands in processes of their own: killed at any moment, on a full disk, two at once. For the tests, and for
`python -m tests.faults --long`.

A server imports the commands once and forks a process for each run, the pools of nnU-Net and of this package included, which
otherwise are started anew and import everything for seconds. Signals go to the process group of a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from nnunet_ssl.data.ownership import RECORD
from tests.faults import inputs, preloaded, results
from tests.helpers import acdc_release, synthetic
from tests.helpers.paths import REPOSITORY

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# what may differ between two runs, or holds where it lies: times, compressed arrays, paths, logs
NOT_COMPARED = (RECORD, ".b2nd", ".pkl", "_made_from.json", "round.json", "debug.json", "summary.json", "progress.png")
NOT_COMPARED += (
    "compare_record.json",
    "progress_ssl.png",
    "/plans.json",
    "predict_from_raw_data_args.json",
    "validation_raw.json",
)
TRAINER = "nnUNetTrainerTestKilled"


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    Attributes:
        words: `{root}` stands for the folder of a run.
        write: what must be there before.
        before: commands that are run first, by name.
        again: added to the words of a repetition, `--c`.
        replaces: whether files that were there before may be gone meanwhile.
        second: exit code of a second one, where the first has done it all.
    """

    name: str
    words: list[str]
    write: Callable[[Path], None]
    before: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    replaces: bool = False
    second: int = 0


def write_release(root: Path) -> None:
    for patient in (*acdc_release.TRAIN[:2], acdc_release.VALIDATION[0]):
        acdc_release.write_patient(root / "release" / "training", patient)


def write_raw(root: Path) -> None:
    for name in (inputs.NAME, inputs.OTHER):
        inputs.write_sound(root / "nnUNet_raw" / name)


def write_training(root: Path) -> None:
    """Images of one patch in few slices, so that a training takes seconds."""
    with mock.patch.object(synthetic, "SHAPE", (4, 24, 24)):
        synthetic.make_dataset(root, labeled=3, unlabeled=2, configurations=("2d",))


def write_validated(root: Path) -> None:
    results.write_validated(root)


def write_test_cases(root: Path) -> None:
    """As `results.write_tested`, without predictions."""
    results.write_tested(root)
    shutil.rmtree(root / results.FIRST / "test_folds_0")


CONVERT = ["convert", "ACDC", "-i", "{root}/release", "-d", "45", "--labeled", "1", "-np", "1"]
TRAIN = ["nnUNetv2_train", "991", "2d", "0", "-tr", TRAINER, "-device", "cpu"]
WRITERS = {
    writer.name: writer
    for writer in (
        Writer("convert", CONVERT, write_release),
        Writer("convert --overwrite", [*CONVERT, "--overwrite"], write_release, ("convert",), replaces=True),
        Writer("plan_and_preprocess", inputs.PLAN["plan"], write_raw, replaces=True),
        Writer(
            "preprocess_unlabeled",
            inputs.PLANNED["preprocess"],
            write_raw,
            ("plan_and_preprocess", "without unlabeled"),
        ),
        Writer("pseudo_label", inputs.PLANNED["pseudo_label"], inputs.write_with_maps, ("plan_and_preprocess",)),
        Writer("weaken", inputs.PLANNED["weaken"], write_raw),
        Writer("merge", inputs.PLANNED["merge"], write_raw),
        Writer("expand", inputs.EXPAND["expand"], inputs.write_sparse),
        Writer("split", inputs.PLANNED["split"], write_raw),
        Writer("export", results.MODEL_COMMANDS["export"], results.write_model, second=1),
        Writer("compare", results.COMPARE, write_validated, second=1),
        Writer("compare --test", results.TEST, write_test_cases, second=1),
        Writer("nnUNetv2_train", TRAIN, write_training, again=("--c",), replaces=True, second=1),
    )
}


# ---------------------------------------------------------------------------------------------------------------- one run


def _run(words: list[str], root: Path, output: multiprocessing.connection.Connection, largest_file: int) -> None:
    """In the process of a run, the first of its group."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.environ.update({name: str(root / name) for name in FOLDERS})
    os.environ.update({"nnUNet_compile": "f", "OMP_NUM_THREADS": "1"})
    multiprocessing.set_start_method("fork", force=True)
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    torch.set_num_threads(1)
    # nnU-Net draws a hundred million voxels, and a figure of 16 million pixels
    preloaded.few_intensities()
    if largest_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = words
    if words[0] == "nnUNetv2_train":
        from nnunetv2.run.run_training import run_training_entry

        os.environ["nnUNet_n_proc_DA"] = "0"
        sys.path.append(str(REPOSITORY / "tests" / "helpers"))  # where the trainer is defined
        run_training_entry()
        code = 0
    else:
        from nnunet_ssl import cli

        code = cli.main(words)
    sys.stdout.flush()
    sys.exit(code)


@dataclass
class Running:
    """A command that runs, with what it has printed."""

    process: multiprocessing.process.BaseProcess
    source: multiprocessing.connection.Connection
    text: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while part := os.read(self.source.fileno(), 1 << 16):
            self.text.append(part)

    @property
    def printed(self) -> str:
        return b"".join(self.text).decode(errors="replace")

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    def signal(self, number: int, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was faster
            if group and os.getpgid(self.process.pid) == self.process.pid:
                os.killpg(self.process.pid, number)
            else:  # or it is so young that it has no group of its own yet
                os.kill(self.process.pid, number)

    def wait(self, seconds: float = 300) -> str:
        """What it has printed when it and its workers have ended. AssertionError where they do not, and are killed."""
        self.process.join(seconds)
        ended = self.process.exitcode is not None
        if not ended:
            self.signal(signal.SIGKILL, group=True)
        self.reader.join(20)  # the last worker closes the pipe
        outlived = self.reader.is_alive()
        if outlived:
            self.signal(signal.SIGKILL, group=True)
        self.process.join(20)
        assert ended, f"still running after {seconds} s:\n{self.printed[-2000:]}"
        assert not outlived, f"workers have outlived it:\n{self.printed[-2000:]}"
        return self.printed


def start(root: Path, words: list[str], largest_file: int = 0) -> Running:
    """Run a command in a process group of its own.

    Args:
        largest_file: bytes that a file may have, as on a disk that is full then; 0: any number.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preloaded"])
    source, output = context.Pipe(duplex=False)
    words = [word.format(root=root) for word in words]
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    trainers = os.pathsep.join(
        [str(REPOSITORY / "nnunet_ssl/discovery/nnunet_ext"), str(REPOSITORY / "tests/helpers/example_trainers")]
    )
    with mock.patch.dict(os.environ, {"PYTHONPATH": paths, "nnUNet_extTrainer": trainers, "OMP_NUM_THREADS": "1"}):
        process = context.Process(target=_run, args=(words, root, output, largest_file))
        process.start()
    output.close()
    return Running(process, source)


def finish(root: Path, words: list[str]) -> float:
    """Run it to its end; seconds. AssertionError with what it printed if it fails."""
    begin = time.monotonic()
    running = start(root, words)
    printed = running.wait()
    assert running.code == 0, printed[-3000:]
    return time.monotonic() - begin


# ------------------------------------------------------------------------------------------------------------- the folders


def prepare(root: Path, writer: Writer) -> None:
    """The state before the command, in an empty folder."""
    with mock.patch.dict(os.environ):
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(root / name)
        writer.write(root)
    for name in writer.before:
        if name == "without unlabeled":
            shutil.rmtree(next((root / "nnUNet_preprocessed" / inputs.NAME).glob("*_unlabeled")))
        else:
            finish(root, WRITERS[name].words)


def contents(root: Path) -> dict[str, str]:
    """Path -> hash of its content, "" where that may differ. Of checkpoints, the weights of all networks."""
    found = {}
    for file in root.rglob("*"):
        path = str(file.relative_to(root))
        if not file.is_file() or "training_log_" in path:
            continue
        if path.endswith(".pth"):
            found[path] = _weights(file)
        elif file.suffix == ".json" and not path.endswith(NOT_COMPARED):
            found[path] = json.dumps(json.loads(file.read_text()), sort_keys=True).replace(str(root), "ROOT")
        else:
            found[path] = "" if path.endswith(NOT_COMPARED) else hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _weights(file: Path) -> str:
    """Of student, teacher, second network and whatever else has tensors, the optimizers included."""
    digest = hashlib.sha256()

    def add(held: object) -> None:
        if isinstance(held, dict):
            for key in sorted(held, key=str):
                digest.update(str(key).encode())
                add(held[key])
        elif isinstance(held, torch.Tensor):
            digest.update(held.detach().cpu().contiguous().numpy().tobytes())

    held = torch.load(file, map_location="cpu", weights_only=False)
    state = {k: v for k, v in (held.get("ssl_state") or {}).items() if k not in ("random_states", "curves")}
    add({"network": held.get("network_weights"), "optimizer": held.get("optimizer_state"), "state": state})
    return digest.hexdigest()


@dataclass
class Trial:
    """A command undisturbed: the state before, copied for each try, and the state that all must reach."""

    writer: Writer
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        start(self.folder, ["trainers_path"]).wait()  # the server has imported everything then
        self.sound = self.folder / "sound"
        self.sound.mkdir()
        prepare(self.sound, self.writer)
        self.before = contents(self.sound)
        undisturbed = self.copy()
        self.seconds = finish(undisturbed, self.writer.words)
        self.wanted = contents(undisturbed)
        self.largest = max(f.stat().st_size for f in undisturbed.rglob("*") if f.is_file())
        shutil.rmtree(undisturbed)

    def copy(self) -> Path:
        root = self.folder / f"root{next(self.numbers)}"
        shutil.copytree(self.sound, root)
        return root

    def lost(self, root: Path) -> list[str]:
        """What was there before, and is gone though the command does not replace it."""
        return [f"lost {p}" for p in self.before if not self.writer.replaces and not (root / p).is_file()][:3]

    def repeated(self, root: Path) -> list[str]:
        """What is wrong after the command was run again, undisturbed."""
        try:
            finish(root, [*self.writer.words, *self.writer.again])
        except AssertionError as error:
            return [str(error)[-1500:]]
        found = contents(root)
        paths = sorted(set(found) ^ set(self.wanted)) or sorted(p for p in self.wanted if found[p] != self.wanted[p])
        return [f"differs in {paths[:4]}"] if paths else []


@contextlib.contextmanager
def trial(writer: Writer, folder: Path | None = None) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory(dir=folder) as base:
        yield Trial(writer, Path(base))


# --------------------------------------------------------------------------------------------------------------- the faults


@dataclass
class Tried:
    """How often something was tried, how often the command was faster, and what went wrong."""

    number: int = 0
    too_late: int = 0
    wrong: list[str] = field(default_factory=list)


def try_kills(of: Trial, number: int, seed: int = 0, report: Callable[[str], object] = lambda text: None) -> Tried:
    """SIGKILL to the process group at random moments, `number` times before the end; the command is then repeated."""
    tried, random, seconds = Tried(), np.random.default_rng(seed), of.seconds
    while tried.number < number and tried.too_late < 2 * number + 5:
        share = random.uniform(0, 1)
        root = of.copy()
        running = start(root, of.writer.words)
        begin = time.monotonic()
        running.process.join(share * seconds)
        running.signal(signal.SIGKILL, group=True)
        try:
            running.wait(60)
            if running.code == 0:
                tried.too_late += 1
                seconds = min(seconds, time.monotonic() - begin)
                shutil.rmtree(root)
                continue
            tried.number += 1
            faults = [*of.lost(root), *of.repeated(root)]
        except Exception as error:  # a try that fails is a result, and the others go on
            faults = [f"{type(error).__name__}: {str(error)[-1500:]}"]
        tried.wrong += [f"{of.writer.name}, killed at {share:.0%}: {fault}" for fault in faults]
        report(f"{of.writer.name}: {tried.number} of {number} killed, {len(tried.wrong)} wrong")
        shutil.rmtree(root)
    return tried


def try_kills_of_checkpoints(of: Trial, number: int, report: Callable[[str], object] = lambda text: None) -> Tried:
    """SIGKILL while a checkpoint lies half written under its temporary name; then `--c`."""
    tried = Tried()
    for index in itertools.count():
        if tried.number >= number or tried.too_late > 2 * number + 5:
            return tried
        root = of.copy()
        running = start(root, of.writer.words)
        results_folder = root / "nnUNet_results"
        seen = 0
        while running.process.is_alive():  # the first one, the second one, ... of a run
            if any(re.search(r"\.pth\..*\.tmp$", name) for _, _, names in os.walk(results_folder) for name in names):
                seen += 1
                if seen > index % 5:
                    running.signal(signal.SIGKILL, group=True)
                    break
        try:
            running.wait(60)
            left = [p for p in results_folder.rglob("*.tmp")]
            if running.code == 0 or not left:
                tried.too_late += 1
                shutil.rmtree(root)
                continue
            tried.number += 1
            faults = of.repeated(root)
        except Exception as error:
            faults = [f"{type(error).__name__}: {str(error)[-1500:]}"]
        tried.wrong += [f"checkpoint: {fault}" for fault in faults]
        report(f"checkpoints: {tried.number} of {number} killed, {len(tried.wrong)} wrong")
        shutil.rmtree(root)
    return tried


def try_full_disk(of: Trial, number: int, report: Callable[[str], object] = lambda text: None) -> Tried:
    """No file may become larger than a share of the largest: one sentence, exit code 1, and the repeated command works."""
    tried = Tried()
    for share in np.linspace(0.02, 0.95, number):
        root = of.copy()
        running = start(root, of.writer.words, largest_file=max(1, int(share * of.largest)))
        try:
            printed = running.wait()
            if running.code == 0:
                tried.too_late += 1
                faults = []
            else:
                tried.number += 1
                faults = [*refusal_faults(of, root, running.code, printed), *of.repeated(root)]
        except Exception as error:
            faults = [f"{type(error).__name__}: {str(error)[-1500:]}"]
        tried.wrong += [f"{of.writer.name}, files of {share:.0%}: {fault}" for fault in faults]
        report(f"{of.writer.name}: {tried.number} of {number} on a full disk, {len(tried.wrong)} wrong")
        shutil.rmtree(root)
    return tried


def refusal_faults(of: Trial, root: Path, code: int | None, printed: str) -> list[str]:
    """What is wrong with how a command has ended on a full disk; nnU-Net's training prints a traceback of its own."""
    faults = of.lost(root)
    if of.writer.name != "nnUNetv2_train" and (code != 1 or "Traceback" in printed):
        faults.append(f"exit code {code}: {printed[-1500:]}")
    left = [str(p.relative_to(root)) for p in root.rglob(".*") if p.name != RECORD and p.name not in of.before]
    left = [path for path in left if path not in of.before]
    return faults + ([f"left {left[:4]}"] if left else [])


def try_two_at_once(of: Trial) -> list[str]:
    """Two processes of one command; what is wrong."""
    root = of.copy()
    both = [start(root, of.writer.words) for _ in range(2)]
    printed = [running.wait() for running in both]
    codes = sorted(running.code or 0 for running in both)
    faults = []
    if codes not in ([0, 0], [0, of.writer.second]):
        faults.append(f"exit codes {codes}:\n" + "\n".join(text[-1500:] for text in printed))
    if any("Traceback" in text for text in printed) and of.writer.name != "nnUNetv2_train":
        faults.append("\n".join(text[-1500:] for text in printed))
    found = contents(root)
    if found != of.wanted:
        paths = sorted(set(found) ^ set(of.wanted)) or sorted(p for p in of.wanted if found[p] != of.wanted[p])
        faults.append(f"differs in {paths[:4]}")
    return faults
