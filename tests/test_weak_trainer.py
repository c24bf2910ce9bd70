"""The base of trainers for sparse labels: what lies inside the image, and validation on dense labels."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.dense_labels import DenseLabels
from tests.helpers.synthetic import make_dataset
from tests.helpers.trainers import preprocess_dense_labels
from tests.helpers.training import copy_batch, make_trainer, seed_everything, started

WEAK = "nnUNetTrainerTestWeak"


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_loader_hands_the_mask_over_and_changes_nothing_else(configuration, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    stock = make_trainer("nnUNetTrainer", out, dataset, configuration, results=tmp_path / "stock")
    stock.initialize(), stock.on_train_start()
    trainer = started(make_trainer(WEAK, out, dataset, configuration, results=tmp_path))
    padded = 0
    for seed in range(4):
        seed_everything(seed)
        expected = next(stock.dataloader_train)
        seed_everything(seed)
        batch = next(trainer.dataloader_train)
        assert torch.equal(batch["data"], expected["data"])
        for target, other in zip(batch["target"], expected["target"], strict=True):
            assert torch.equal(target, other)
        inside = batch["labeled_inside"]
        assert inside.dtype == torch.bool and inside.shape == batch["target"][0].shape
        assert (batch["target"][0][~inside] == 0).all()
        padded += int((~inside).sum())
    assert padded > 0


def test_padding_can_be_ignored(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(WEAK, out, dataset, results=tmp_path, padding="ignore"))
    batches = [next(trainer.dataloader_train) for _ in range(4)]
    assert any((~b["labeled_inside"]).any() for b in batches)
    assert all((b["target"][0][~b["labeled_inside"]] == 3).all() for b in batches)


def test_unlabeled_images_are_left_out_and_that_is_said(datasets, tmp_path):
    out, dataset = datasets(ignore=True)
    trainer = started(make_trainer(WEAK, out, dataset, results=tmp_path))
    assert "unlabeled" not in next(trainer.dataloader_train)
    (log,) = tmp_path.rglob("training_log*.txt")
    assert "3 unlabeled cases are not used" in log.read_text()


@pytest.fixture
def sparse(tmp_path):
    """A data set with dense labels beside sparse ones, preprocessed: (folder, name)."""
    name = make_dataset(tmp_path / "data", ignore=True, dense=True, configurations=("2d",))
    for folder in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{folder}"] = str(tmp_path / "data" / f"nnUNet_{folder}")
    return tmp_path / "data", name


@pytest.mark.parametrize("trainer_name", [WEAK, "nnUNetTrainerMeanTeacher"])
def test_validation_is_on_dense_labels_where_there_are_any(trainer_name, sparse, tmp_path, pools_of_threads):
    out, name = sparse
    trainer = started(make_trainer(trainer_name, out, name, results=tmp_path / "a"))
    assert (next(trainer.dataloader_val)["target"][0] == 3).any()
    (log,) = (tmp_path / "a").rglob("training_log*.txt")
    assert "against the sparse labels" in log.read_text()
    assert "labelsTr_dense has dense labels of all validation cases" in log.read_text()
    assert "`nnunet_ssl preprocess_unlabeled -d 991`" in log.read_text()

    preprocess_dense_labels(name)
    trainer = started(make_trainer(trainer_name, out, name, results=tmp_path / "b", num_epochs=1))
    assert not any((next(trainer.dataloader_val)["target"][0] == 3).any() for _ in range(4))
    assert any((next(trainer.dataloader_train)["target"][0] == 3).any() for _ in range(4))
    trainer.train_step(copy_batch(next(trainer.dataloader_train)))
    trainer.perform_actual_validation()
    (log,) = (tmp_path / "b").rglob("training_log*.txt")
    assert "against the dense labels of" in log.read_text() and "Against dense labels, mean" in log.read_text()
    command = f"`nnunet_ssl compare -d 991 -c 2d -f 0 1 2 3 4 -tr nnUNetTrainer {trainer_name} --write_crossval`"
    assert "nnUNetv2_find_best_configuration" in log.read_text() and command in log.read_text()
    assert log.read_text().count("This split has 3 training and 1 validation cases.") == 1
    (dense,), (sparse_summary,) = (list((tmp_path / "b").rglob(f)) for f in ("summary.json", "summary_sparse.json"))
    found, stock = (json.loads(f.read_text())["metric_per_case"][0] for f in (dense, sparse_summary))
    assert "gt_segmentations_dense" in found["reference_file"] and "gt_segmentations/" in stock["reference_file"]
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "nnUNet_raw" / name / "labelsTr_dense" / "case_03.nii.gz")))
    assert found["metrics"]["1"]["n_ref"] == (truth == 1).sum() > stock["metrics"]["1"]["n_ref"]


def test_dense_labels_that_are_not_preprocessed_are_named(sparse, tmp_path):
    out, name = sparse
    preprocess_dense_labels(name)
    plans = out / "nnUNet_preprocessed" / name / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    plans.write_text(json.dumps(content))
    with pytest.raises(
        UserError,
        match=r"nnUNetPlans_2d_dense is missing, unfinished or made with other plans.*`nnunet_ssl preprocess_unl",
    ):
        started(make_trainer(WEAK, out, name, results=tmp_path))


def test_what_has_not_changed_is_kept_and_what_is_gone_is_removed(sparse, capsys):
    out, name = sparse
    preprocess_dense_labels(name)
    preprocess_dense_labels(name)
    assert "0 done, 4 kept" in capsys.readouterr().out.splitlines()[-1]
    folder = out / "nnUNet_raw" / name / "labelsTr_dense"
    image = sitk.ReadImage(str(folder / "case_00.nii.gz"))
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros_like(sitk.GetArrayFromImage(image))), str(folder / "case_00.nii.gz")
    )
    preprocess_dense_labels(name)
    assert "1 done, 3 kept" in capsys.readouterr().out.splitlines()[-1]
    for file in folder.iterdir():
        file.unlink()
    preprocess_dense_labels(name)
    preprocessed = out / "nnUNet_preprocessed" / name
    assert not (preprocessed / "gt_segmentations_dense").exists()
    plans_manager = make_trainer(WEAK, out, name).plans_manager
    assert (
        DenseLabels.of(preprocessed, plans_manager, plans_manager.get_configuration("2d"), ["case_03"], ".nii.gz")
        is None
    )
