"""Masks without images: how they are preprocessed, and what is refused before."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl import cli
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.unpaired_masks import preprocess_masks
from tests.helpers.synthetic import make_dataset
from tests.helpers.training import make_trainer, started

TRAINER = "nnUNetTrainerMAAG"


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


def test_masks_are_resampled_and_keep_their_whole_field_of_view(raw, tmp_path):
    dataset, array = raw
    preprocess_masks(dataset, "nnUNetPlans", ["3d_fullres"], [1], show_progress=False)
    trainer = make_trainer(TRAINER, tmp_path, dataset.name, "3d_fullres", results=tmp_path / "results")
    started(trainer)
    masks = trainer.dataloader_train.data_loader.streams["masks"]._data
    _, mask, _, properties = masks.load_case("other")
    assert masks.identifiers == ["other"] and mask.shape == (1, 20, 40, 48)  # 2 mm to 1 mm, nothing cropped
    volumes = [int((np.asarray(mask[:]) == label).sum()) for label in (1, 2)]
    assert volumes == pytest.approx([8 * int((array == label).sum()) for label in (1, 2)], rel=0.15)
    assert set(np.unique(mask[:])) == {0, 1, 2}
    assert len(properties["class_locations"][1]) and len(properties["class_locations"][(-1, 0, 1, 2)])


def test_the_command_preprocesses_masks_and_forgets_those_that_are_gone(raw, tmp_path, capsys):
    dataset, _ = raw
    command = ["preprocess_unlabeled", "-d", "991", "-c", "2d", "-np", "1", "--no_pbar"]
    assert cli.main(command) == 0
    assert "masks without images: 1 done, 0 kept, 0 removed" in capsys.readouterr().out
    file = tmp_path / "nnUNet_preprocessed" / dataset.name / "nnUNetPlans_2d_masks.json"
    assert list(json.loads(file.read_text())["cases"]) == ["other"]
    (dataset.folder / "masksUn" / "other.nii.gz").unlink()
    preprocess_masks(dataset, "nnUNetPlans", ["2d"], [1], show_progress=False)
    assert "0 done, 0 kept, 1 removed" in capsys.readouterr().out
    with pytest.raises(UserError, match="is empty, unfinished or"):
        make_trainer(TRAINER, tmp_path, dataset.name, results=tmp_path / "results").on_train_start()
