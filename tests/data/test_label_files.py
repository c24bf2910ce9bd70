"""Label maps beside their images: what is named, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ssl.data.label_files import misplaced_labels, named_codes
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import SHAPE, use_folders, write_image, write_raw_dataset


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    use_folders(monkeypatch, tmp_path)
    raw = tmp_path / "nnUNet_raw" / "Dataset801_Balls"
    write_raw_dataset(raw, {"a": 0, "b": 1}, test={"t": 2})
    return raw


def test_labels_that_lie_elsewhere_are_named_by_case(folder):
    assert misplaced_labels(RawDataset.open(801)) == misplaced_labels(RawDataset.open(801), "test") == []
    write_image(np.zeros(SHAPE, np.uint8), folder / "labelsTr" / "b.nii.gz", spacing=(1.0, 1.0, 2.0))
    (found,) = misplaced_labels(RawDataset.open(801))
    assert found.startswith("case b: ") and "spacing 1 x 1 x 2, the other has 1 x 1 x 1" in found


@pytest.mark.parametrize("section", ["labeled", "test"])
def test_labels_of_another_shape_are_refused(folder, section):
    case, part = {"labeled": ("b", "labelsTr"), "test": ("t", "labelsTs")}[section]
    write_image(np.zeros((SHAPE[0] - 1, *SHAPE[1:]), np.uint8), folder / part / f"{case}.nii.gz")
    with pytest.raises(
        UserError, match=rf"case {case}: .*{case}\.nii\.gz has the shape 20 x 24 x 15, the other has 20 x 24 x 16"
    ):
        misplaced_labels(RawDataset.open(801), section)


def test_files_without_geometry_have_none_to_differ_in(folder):
    content = json.loads((folder / "dataset.json").read_text()) | {"overwrite_image_reader_writer": "Tiff3DIO"}
    (folder / "dataset.json").write_text(json.dumps(content))
    write_image(np.zeros((3, 3, 3), np.uint8), folder / "labelsTr" / "b.nii.gz")
    assert misplaced_labels(RawDataset.open(801)) == []


def test_codes_are_those_of_classes_and_regions():
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    assert named_codes({"labels": labels}) == {0, 1, 2}
    assert named_codes({"labels": labels}, ignore=True) == {0, 1, 2, 3}
