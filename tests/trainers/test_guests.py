"""`pytest --trainer NAME`: the contract of every trainer, asked of one that somebody keeps in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nnunet_ssl.discovery import SCANNED_FOLDER
from tests.helpers.paths import REPOSITORY

TRAINERS = """
from nnunet_ssl.trainers import nnUNetTrainerEntropyMinimization


class nnUNetTrainerGuest(nnUNetTrainerEntropyMinimization):
    \"\"\"Without weight nnU-Net's step.\"\"\"

    other_weight: float = 2.0

    def weights(self):
        return {name: self.other_weight * weight for name, weight in super().weights().items()}


class nnUNetTrainerGuestThatDoublesTheLoss(nnUNetTrainerEntropyMinimization):
    \"\"\"Never nnU-Net's step.\"\"\"

    def supervised_loss(self, logits, target, batch):
        return 2 * super().supervised_loss(logits, target, batch)
"""


@pytest.fixture
def contract(tmp_path):
    """Runs pytest in a process of its own; its exit code and output."""
    folder = tmp_path / "my_trainers"
    folder.mkdir()
    (folder / "guests.py").write_text(TRAINERS)
    paths = os.pathsep.join([str(folder), str(SCANNED_FOLDER)])

    def run(*arguments: str) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "tests/trainers/test_contract.py",
            *arguments,
        ]
        environment = {**os.environ, "nnUNet_extTrainer": paths}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_trainer_of_somebody_else_passes_or_fails_the_contract(contract):
    names = ("nnUNetTrainerGuest", "nnUNetTrainerGuestThatDoublesTheLoss")
    options = [word for name in names for word in ("--trainer", name)]
    code, text = contract(*options, "-k", "without_weight_the_step and not regions and not ignore", "-rfp")
    assert code == 1
    assert text.count("PASSED ") == text.count("FAILED ") == 2
    assert all(
        ("FAILED" in line) == (names[1] in line) for line in text.splitlines() if line[:7] in ("PASSED ", "FAILED ")
    )


@pytest.mark.slow
def test_its_contract_is_that_of_our_own_trainers_and_no_other_test_runs(contract):
    (_, guest), (_, ours) = (
        contract("--collect-only", "-m", "not slow", *words)
        for words in (["--trainer", "nnUNetTrainerGuest"], ["-k", "nnUNetTrainerEntropyMinimization"])
    )
    tests = [line for line in guest.splitlines() if "::" in line]
    assert len(tests) > 20 and all("nnUNetTrainerGuest" in test for test in tests)
    expected = {
        test.replace("EntropyMinimization", "Guest")
        for test in ours.splitlines()
        if "::test_" in test and "golden_values" not in test
    }
    assert set(tests) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"), [("nnUNetTrainerNobody", "Could not find"), ("nnUNetTrainerMeanTeacher", "no subclass")]
)
def test_a_name_that_is_no_such_trainer_is_a_usage_error(name, said, contract):
    code, text = contract("--trainer", name)
    assert code == 4 and said in text
