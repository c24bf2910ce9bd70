"""Packs of the studies: converted, planned and preprocessed by the commands that a user would type."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.studies import Pack
from benchmarks.study_jobs import locked
from nnunet_ssl.commands.steps import Step, run_steps
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.runs import load_json


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
        if pack.foreign:
            add_raw(pack.foreign)
        if not (root / "raw" / pack.dataset / "dataset.json").is_file():  # written last
            convert(pack)
        # these two may be repeated: where the conversion was the last thing that was done, they are still missing
        if pack.again:
            action = ["python", "-m", "benchmarks.labeled_again", "-d", str(pack.dataset_id)]
            steps.append(Step(f"{pack.dataset}_again", f"{pack.dataset}: labeled images as unlabeled ones", action))
        if pack.foreign:
            action = ["python", "-m", "benchmarks.foreign_images", "-d", str(pack.dataset_id)]
            action += ["--of", str(pack.foreign.dataset_id)]
            steps.append(Step(f"{pack.dataset}_foreign", f"{pack.dataset}: unlabeled images of something else", action))

    def convert(pack: Pack) -> None:
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
