"""Shared fixtures: synthetic data sets made once, trainers built as nnU-Net builds them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.synthetic import make_dataset

HELPERS = Path(__file__).resolve().parent / "helpers"
EXAMPLE_TRAINERS = HELPERS / "example_trainers"


# `pytest -m fast`: what computes on small arrays, and the contract of one trainer.
FAST_FOLDERS = ("losses", "predictions", "patches", "networks", "weak", "data", "dataloading", "engine", "evaluation")
FAST_FILES = ("test_ramps.py", "test_errors.py", "test_rooms.py", "test_seams.py")
FAST_TRAINER = "nnUNetTrainerMeanTeacher"
FILES_ON_DISK = {"datasets", "tmp_path", "tmp_path_factory", "capfd"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The marker `fast`, by folder and fixtures, so that nobody has to set it."""
    for item in items:
        if item.get_closest_marker("slow"):
            continue
        fixtures = set(getattr(item, "fixturenames", ()))
        small = item.path.parent.name in FAST_FOLDERS and not fixtures & FILES_ON_DISK
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        contract = item.path.name == "test_contract.py" and parameters.get("name") == FAST_TRAINER
        if small or contract or item.path.name in FAST_FILES:
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Bit for bit comparisons hold with one thread; small networks are not slower with it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def example_trainers():
    """nnU-Net also finds the test-only trainers, by the way a user's own folder is found."""
    sys.path.insert(0, str(HELPERS))
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(
        filter(None, [os.environ.get("nnUNet_extTrainer", ""), str(EXAMPLE_TRAINERS)])
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def environment_restored():
    """nnU-Net's folders and worker counts are environment variables: what one test sets must not reach the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Function (**options of make_dataset) -> (folder, data set name), each made once a session and shared read-only."""
    made = {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("synthetic")
            made[key] = folder, make_dataset(folder, **options)
        return made[key]

    return get
