"""Shared fixtures: synthetic data sets made once, trainers built as nnU-Net builds them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from multiprocessing.pool import ThreadPool
from pathlib import Path

import matplotlib
import pytest
import torch

# nnU-Net reads it when it is imported; else every validation starts eight processes for one small image.
os.environ.setdefault("nnUNet_def_n_proc", "1")

from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.synthetic import make_dataset

HELPERS = Path(__file__).resolve().parent / "helpers"
EXAMPLE_TRAINERS = HELPERS / "example_trainers"
GUESTS_VARIABLE = "NNUNET_SSL_GUESTS"  # of tests/helpers/trainers.py, which is imported when it is set


# `pytest -m fast`: what computes on small arrays, and the contract of one trainer.
FAST_FOLDERS = ("losses", "predictions", "patches", "networks", "weak", "data", "dataloading", "engine", "evaluation")
FAST_FILES = ("test_ramps.py", "test_errors.py", "test_rooms.py", "test_seams.py", "test_reference.py")
FAST_TRAINER = "nnUNetTrainerMeanTeacher"
FILES_ON_DISK = {"datasets", "tmp_path", "tmp_path_factory", "capfd"}

# `pytest -m slow`: more than about ten seconds each. They start nnU-Net's commands, preprocess whole data sets or install the
# package.
SLOW = {
    "commands/test_steps.py": None,  # all of them share one run that is killed and continued
    "commands/test_preprocess_unlabeled.py": {
        "test_a_changed_label_makes_plans_and_labeled_part_anew",
        "test_plans_are_those_of_nnunet_without_the_unlabeled_images",
    },
    "commands/test_pseudo_label.py": {"test_a_killed_run_is_continued_and_gives_the_same"},
    "tests/test_install.py": {"test_a_checkout_without_links_installs_as_well"},
}


def is_slow(item: pytest.Item) -> bool:
    file = f"{item.path.parent.name}/{item.path.name}"
    names = SLOW.get(file, set())
    return names is None or getattr(item, "originalname", item.name) in names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--trainer",
        action="append",
        metavar="NAME",
        help="ask the contract of every trainer (tests/trainers/test_contract.py) of this one, which nnU-Net finds in a folder of "
        "nnUNet_extTrainer, and of no other; may be given several times",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Trainers of others become parameters of the contract tests; their names reach worker processes by the environment."""
    names = config.getoption("--trainer")
    if not names:
        return
    os.environ[GUESTS_VARIABLE] = " ".join(names)
    try:
        from tests.helpers.trainers import GUESTS
    except RuntimeError as error:  # nnU-Net's, with the folders it has searched
        raise pytest.UsageError(str(error)) from error
    for name, cls in GUESTS.items():
        if not issubclass(cls, nnUNetTrainerSSL) or cls.__module__.startswith("nnunet_ssl.trainers."):
            raise pytest.UsageError(f"--trainer {name}: no subclass of nnUNetTrainerSSL outside of nnunet_ssl/trainers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--trainer` the tests of these trainers only."""
    mark_by_duration(items)
    if names := config.getoption("--trainer"):
        asked = {id(item) for item in items if hasattr(item, "callspec") and item.callspec.params.get("name") in names}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in asked])
        items[:] = [item for item in items if id(item) in asked]


def mark_by_duration(items: list[pytest.Item]) -> None:
    """The markers `fast`, by folder and fixtures, and `slow`, by name, so that nobody has to set them."""
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
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
def figures_of_few_pixels():
    """nnU-Net's figure of a run has 16 million pixels, and every epoch of every trainer draws it anew."""
    matplotlib.rcParams["figure.dpi"] = 10


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


@pytest.fixture
def pools_of_threads(monkeypatch):
    """nnU-Net exports and scores predictions in pools of processes that import torch anew, seconds for one small image."""
    spawn = types.SimpleNamespace(Pool=ThreadPool)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: spawn)


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
