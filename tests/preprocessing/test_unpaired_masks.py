"""Masks without images: what is refused before they are preprocessed."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.unpaired_masks import preprocess_masks
from tests.helpers.synthetic import make_dataset


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A raw data set of its own, with one mask that is larger and of other spacing than the images."""
    name = make_dataset(tmp_path, ignore=True, unlabeled=0)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_preprocessed"))
    folder = tmp_path / "nnUNet_raw" / name / "masksUn"
    folder.mkdir()
    array = np.zeros((10, 20, 24), np.uint8)
    array[2:6, 5:10, 5:12], array[3:5, 6:8, 6:9] = 1, 2
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(folder / "other.nii.gz"))
    return RawDataset.open(name), array


def test_a_mask_that_does_not_fit_is_named(raw):
    dataset, array = raw
    sitk.WriteImage(sitk.GetImageFromArray(array + 2), str(dataset.folder / "masksUn" / "bad.nii.gz"))
    (dataset.folder / "masksUn" / "cut.nii.gz").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"(?s)bad\.nii\.gz: holds 3, 4; allowed in a mask are \[0, 1, 2\].*cut\.nii\.gz.*cannot be"
    ):
        preprocess_masks(dataset, "nnUNetPlans", ["2d"], [1], show_progress=False)
