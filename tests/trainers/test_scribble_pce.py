"""Partial cross entropy: class weights."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from nnunet_ssl.losses.partial_cross_entropy import inverse_frequency_weights
from tests.helpers.training import copy_batch, make_trainer, started


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_class_weights_are_those_of_the_training_cases(deep_supervision, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    options = {"class_weighted": True, "highest_weight": 5.0, "enable_deep_supervision": deep_supervision}
    trainer = started(make_trainer("nnUNetTrainerScribblePCE", out, dataset, results=tmp_path, **options))
    split = json.loads((out / "nnUNet_preprocessed" / dataset / "splits_final.json").read_text())[0]
    cases = trainer.dataset_class(trainer.preprocessed_dataset_folder, split["train"])
    counts = torch.zeros(3)
    for case in split["train"]:
        segmentation = torch.from_numpy(cases.load_case(case)[1][:])
        counts += torch.stack(
            [(segmentation == 0).sum() + (segmentation == -1).sum()] + [(segmentation == c).sum() for c in (1, 2)]
        )
    weights = inverse_frequency_weights(counts, 0.1, 5.0)
    assert weights[2] > weights[1] > weights[0]

    batch = next(trainer.dataloader_train)
    values = trainer.train_step(copy_batch(batch))
    unweighted = started(
        make_trainer(
            "nnUNetTrainerScribblePCE", out, dataset, results=tmp_path / "b", **(options | {"class_weighted": False})
        )
    )
    targets = batch["target"] if deep_supervision else [batch["target"]]
    with torch.no_grad():
        scales = unweighted.student(batch["data"])  # the same seed: the weights before the step
    difference = sum(
        factor
        * (
            F.cross_entropy(logits, target[:, 0].long(), weight=weights, ignore_index=3)
            - F.cross_entropy(logits, target[:, 0].long(), ignore_index=3)
        )
        for factor, logits, target in zip(unweighted.scale_weights, scales, targets, strict=True)
    )
    expected = unweighted.train_step(copy_batch(batch))["loss"] + float(difference)
    assert abs(float(difference)) > 1e-3
    assert values["loss"] == pytest.approx(expected, abs=1e-5)
    (log,) = [f for f in tmp_path.rglob("training_log*.txt") if "/b/" not in str(f)]
    assert f"{int(counts[2])} voxels of 2: {float(weights[2]):.3g}" in log.read_text()


def test_class_weights_of_regions_are_refused(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, regions=True)
    trainer = make_trainer("nnUNetTrainerScribblePCE", out, dataset, results=tmp_path, class_weighted=True)
    with pytest.raises(NotImplementedError, match="class_weighted weighs classes that exclude each other"):
        trainer.initialize()
