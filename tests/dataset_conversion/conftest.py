"""Folders of nnU-Net for conversions."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """The folder that nnUNet_raw names; like those of the other two variables, it is not there yet."""
    folder = tmp_path / "raw"
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(folder if name == "nnUNet_raw" else tmp_path / name))
    return folder
