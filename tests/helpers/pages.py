"""Command blocks of the pages: found, and run as they stand on small data.

A block goes through bash, with its loops, variables and here documents. nnU-Net's and our commands are stand-ins there that note
their arguments; they run afterwards, in this order, in this process, where torch is imported already. What is changed is said
in `shortened`: the length of trainings, the device, the number of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from unittest import mock

import torch

from nnunet_ssl.cli import main
from nnunet_ssl.commands import load
from tests.helpers.paths import REPOSITORY

FOLDERS = (
    "",
    "docs",
    "docs/studies",
    "docs/studies/history",
    "trainers/unlabeled",
    "trainers/sparse",
    "trainers/partial",
    "tests/golden",
)
PAGES = sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).glob("*.md"))
NNUNET = {point.name: point for point in importlib.metadata.distribution("nnunetv2").entry_points}

SHORT = "_1epochs_1iters"
"""Goes between the name of a trainer and its seed."""

_TRAINER = re.compile(r"\b(nnUNetTrainer[A-Za-z0-9]*)(?:_\d+epochs)?((?:_seed\d+)?)(?=__|$)")
# these train or predict with nnUNetTrainer where -tr is not given
_OF_A_TRAINER = ("nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_find_best_configuration", "pseudo_label", "export")
_STAND_IN = """#!/bin/sh
exec {python} -S -E - "$0" "$@" <<'EOF'
import json, os, sys
with open({file!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[1]), *sys.argv[2:]]) + "\\n")
EOF
"""


def blocks(page: Path, *kinds: str) -> list[str]:
    """Fenced blocks of these languages, "" for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind in kinds]


def commands_in(block: str, folder: Path) -> list[list[str]]:
    """The words of every command that bash would run, in their order.

    Args:
        folder: where bash is; what the block itself writes (`cat > file`) is written there.
    """
    log, stand_ins = folder / ".commands.jsonl", folder / ".stand_ins"
    stand_ins.mkdir(exist_ok=True)
    for name in ("nnunet_ssl", "python", "pip", *NNUNET):
        (stand_ins / name).write_text(_STAND_IN.format(python=sys.executable, file=str(log)))
        (stand_ins / name).chmod(0o755)
    log.write_text("")
    block = re.sub(r"^export nnUNet_raw=.*$", "", block, flags=re.MULTILINE)  # nobody else's folders
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env={**os.environ, "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, block + done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def shortened(words: Sequence[str]) -> list[str]:
    """The words with which a command of a page is run here."""
    name, *rest = words
    rest = [_TRAINER.sub(rf"\g<1>{SHORT}\g<2>", word) for word in rest]
    command = rest[0] if name == "nnunet_ssl" else name
    if command in _OF_A_TRAINER and "-tr" not in rest and "--from" not in rest:
        rest += ["-tr", f"nnUNetTrainer{SHORT}"]
    rest = _without(rest, "-num_gpus")
    if command in ("nnUNetv2_train", "nnUNetv2_predict", "compare", "pseudo_label") and "--from" not in rest:
        rest += ["-device", "cpu"]
    if command == "nnUNetv2_predict":
        rest += ["-npp", "0", "-nps", "0"]
    if name == "nnunet_ssl" and (command == "convert" or "-np" in _options(command)):
        rest = [*_without(rest, "-np"), "-np", "1"]
    if command in ("plan_and_preprocess", "nnUNetv2_plan_and_preprocess"):
        rest += ["-npfp", "1"]
    if command == "pseudo_label":  # a network of one step is sure of nothing
        for option in ("--gate", "--min_confidence"):
            if option in rest:
                rest[rest.index(option) + 1] = "0"
    if command == "demo":
        rest += ["--epochs", "1", "--iters", "1"]
    if rest[:2] == ["-m", "nnunet_ssl.plans.vnet"]:
        rest += ["--patch_size", "16", "16", "16"]
    return [name, *rest]


def _without(words: list[str], option: str) -> list[str]:
    """Without the option and its value."""
    if option not in words:
        return words
    place = words.index(option)
    return words[:place] + words[place + 2 :]


@functools.cache
def _options(command: str) -> frozenset[str]:
    parser = argparse.ArgumentParser()
    load(command).add_arguments(parser)
    return frozenset(option for action in parser._actions for option in action.option_strings)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def execute(words: Sequence[str], folder: Path) -> None:
    """Run a command in this process, as its console script does; it must succeed."""
    name, *rest = words
    # without workers a training is as fast, and ends at once; planning wants at least one
    workers = {"nnUNet_n_proc_DA": "0" if name == "nnUNetv2_train" else "1"}
    with _inside(folder), mock.patch.object(sys, "argv", [name, *rest]), mock.patch.dict(os.environ, workers):
        if name == "nnunet_ssl":
            assert main(rest) == 0, words
        elif name == "python":
            assert not importlib.import_module(rest[1]).main(rest[2:]), words
        else:
            NNUNET[name].load()()
    torch.set_num_threads(1)  # nnU-Net takes all cores


class _Spawn:
    """multiprocessing's `spawn`, with pools of threads: processes would import torch anew, seconds for one small image."""

    def __getattr__(self, name: str):
        return getattr(self.real, name)

    def __init__(self):
        self.real = multiprocessing.get_context("spawn")

    @staticmethod
    def Pool(processes=None, initializer=None, *arguments, **options):
        return ThreadPool(processes)


@contextlib.contextmanager
def small_and_here(folder: Path) -> Iterator[None]:
    """nnU-Net's folders below `folder`, no worker processes."""
    spawn = _Spawn()
    variables = {f"nnUNet_{kind}": str(folder / f"nnUNet_{kind}") for kind in ("raw", "preprocessed", "results")}
    for path in variables.values():
        Path(path).mkdir(exist_ok=True)
    variables |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    with mock.patch.dict(os.environ, variables), mock.patch.object(multiprocessing, "get_context", lambda *_: spawn):
        yield


def run_block(block: str, folder: Path) -> list[list[str]]:
    """Run the commands of a block in `folder`, without those of pip and pytest; what ran."""
    done = []
    with small_and_here(folder):
        for words in map(shortened, commands_in(block, folder)):
            if words[0] != "pip" and words[:3] != ["python", "-m", "pytest"]:
                execute(words, folder)
                done.append(words)
    return done
