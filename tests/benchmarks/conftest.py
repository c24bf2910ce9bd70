"""What tests of benchmarks share."""

from __future__ import annotations

import os

import pytest

from benchmarks.study import TRAINERS


@pytest.fixture
def trainers_of_benchmarks(monkeypatch):
    """Found as a user's own trainers are; `study run` does the same."""
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS), prepend=os.pathsep)
