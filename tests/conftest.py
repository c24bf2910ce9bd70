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
