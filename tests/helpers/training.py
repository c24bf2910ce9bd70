"""Building trainers and batches in tests, in this process and without workers."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

# nnU-Net looks through all its modules, a second each time; `tests/test_discovery.py` tests that it finds ours
find_class = functools.cache(recursive_find_trainer_class_by_name)


def make_trainer(
    name,
    out: Path,
    dataset: str,
    configuration: str = "2d",
    fold=0,
    results: Path | None = None,
    device="cpu",
    **attributes,
):
    """A trainer, as `nnUNetv2_train` makes it. `attributes` become class attributes of a subclass of the same name."""
    preprocessed = out / "nnUNet_preprocessed" / dataset
    os.environ["nnUNet_raw"] = str(out / "nnUNet_raw")
    os.environ["nnUNet_preprocessed"] = str(out / "nnUNet_preprocessed")
    os.environ["nnUNet_results"] = str(results or out / "nnUNet_results")
    os.environ["nnUNet_n_proc_DA"] = "0"
    cls = find_class(name) if isinstance(name, str) else name
    if attributes:
        cls = type(cls.__name__, (cls,), {"__module__": cls.__module__, **attributes})
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    return cls(plans, configuration, fold, dataset_json, torch.device(device))


def seed_everything(seed: int = 0) -> None:
    np.random.seed(seed)
    torch.manual_seed(seed)


def started(trainer, seed: int = 0):
    """The trainer after `on_train_start` and `on_train_epoch_start`, with seeded weights."""
    seed_everything(seed)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def copy_batch(batch: dict) -> dict:
    def copy(value):
        if isinstance(value, torch.Tensor):
            return value.clone()
        return [copy(v) for v in value] if isinstance(value, list) else value

    return {k: copy(v) for k, v in batch.items()}


def peak_memory(trainer, batch) -> int:
    """Bytes of tensors that a step holds at most beside what was there before."""
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train_step(batch)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.train_step(batch)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def weights_of(module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def largest_difference(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((float((a[k].double() - b[k].double()).abs().max()) for k in a), default=0.0)


def copy_dataset(source: Path, target: Path) -> Path:
    """A private copy of a shared synthetic data set, for tests that change it."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target
