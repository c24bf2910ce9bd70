"""Images of unlabeled cases in either of nnU-Net's file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from nnunet_ssl.dataloading import dataset as dataset_module
from nnunet_ssl.dataloading.dataset import UnlabeledDataset, unpack_images
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import dataset_class_of
from tests.helpers.trainers import hide_labels
from tests.helpers.training import copy_dataset, make_trainer, started


def to_npz(folder: Path, cases: list[str] | None = None) -> list[str]:
    """Write preprocessed cases (None: all) again as earlier versions of nnU-Net did; returns their names."""
    cases = sorted(nnUNetDatasetBlosc2.get_identifiers(str(folder))) if cases is None else cases
    for case in cases:
        image, segmentation, _, properties = nnUNetDatasetBlosc2(str(folder), [case]).load_case(case)
        arrays = image[:].copy(), segmentation[:].copy()
        del image, segmentation
        for ending in (".b2nd", "_seg.b2nd"):
            (folder / f"{case}{ending}").unlink()
        nnUNetDatasetNumpy.save_case(*arrays, properties, str(folder / case))
    return cases


@pytest.fixture
def own_copy(datasets, tmp_path):
    """Folder, name and preprocessed folder of a data set of one's own."""
    out, dataset = datasets()
    out = copy_dataset(out, tmp_path / "own")
    return out, dataset, out / "nnUNet_preprocessed" / dataset


def test_each_image_is_read_in_its_own_format_and_no_segmentation_is(own_copy):
    _, _, base = own_copy
    folder = base / "nnUNetPlans_2d_unlabeled"
    before = UnlabeledDataset(dict.fromkeys(["free_00", "free_01", "free_02"], str(folder)))
    expected = {case: before.load_case(case)[0][:].copy() for case in before.identifiers}
    to_npz(folder, ["free_01", "free_02"])
    np.save(folder / "free_02.npy", expected["free_02"])
    (folder / "free_02.npz").unlink()  # what is unpacked is read
    images = UnlabeledDataset(before.folders)
    for case, image in expected.items():
        found, zeros, *_ = images.load_case(case)
        assert np.array_equal(found[:], image) and not zeros.any()
    with pytest.raises(
        UserError, match=r"neither free_09\.b2nd nor free_09\.npz. Run `nnunet_ssl preprocess_unlabeled`"
    ):
        UnlabeledDataset({"free_09": str(folder)})


def test_folders_that_cannot_be_written_to_stay_packed(own_copy, monkeypatch):
    _, _, base = own_copy
    folder = base / "nnUNetPlans_2d_unlabeled"
    case, *others = to_npz(folder, ["free_00", "free_01"])
    cases = dict.fromkeys([case, *others, "free_02"], str(folder))
    monkeypatch.setattr(dataset_module.os, "access", lambda path, mode: False)
    unpack_images(cases)
    assert not list(folder.glob("*.npy"))
    packed = UnlabeledDataset(cases).load_case(case)[0][:].copy()
    monkeypatch.undo()
    unpack_images({"free_02": str(folder)})  # all that is asked for has another format
    assert not list(folder.glob("*.npy"))
    unpack_images(cases)
    assert (folder / f"{case}.npy").is_file()
    assert np.array_equal(UnlabeledDataset(cases).load_case(case)[0][:], packed)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("configuration, old", [("2d", "unlabeled"), ("3d_fullres", "labeled")])
def test_labeled_and_unlabeled_cases_may_have_different_formats(configuration, old, hidden, own_copy, tmp_path):
    out, dataset, base = own_copy
    if hidden:
        hide_labels(base, ["case_02"])
    folders = {"labeled": base / f"nnUNetPlans_{configuration[:2]}"}
    folders["unlabeled"] = folders["labeled"].with_name(folders["labeled"].name + "_unlabeled")
    cases = to_npz(folders[old])
    trainer = started(
        make_trainer(
            "nnUNetTrainerMeanTeacher", out, dataset, configuration, results=tmp_path / "results", rampup_fraction=0.0
        )
    )
    drawn = set()
    for _ in range(8):
        batch = next(trainer.dataloader_train)
        drawn |= set(batch["unlabeled_keys"])
    assert drawn == {"free_00", "free_01", "free_02"} | ({"case_02"} if hidden else set())
    assert np.isfinite(trainer.train_step(batch)["consistency"])
    assert all((folders[old] / f"{case}.npy").is_file() for case in cases)
    assert trainer.score_unlabeled(lambda p: float(p[0].mean())).keys() == drawn


def test_the_class_that_reads_a_folder(own_copy):
    _, _, base = own_copy
    folder = base / "nnUNetPlans_2d"
    assert dataset_class_of(folder, ["case_00"]) is nnUNetDatasetBlosc2
    to_npz(folder, ["case_00"])
    assert dataset_class_of(folder, ["case_00"]) is nnUNetDatasetNumpy
