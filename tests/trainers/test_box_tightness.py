"""The trainer for boxes: boxes of augmented patches, and data that it refuses."""

from __future__ import annotations

import pytest

from nnunet_ssl.errors import UserError
from tests.helpers.trainers import spatial_transform
from tests.helpers.training import make_trainer, started


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_boxes_of_augmented_patches_are_the_boxes_of_their_labels(configuration, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, configuration, results=tmp_path))
    boxes = strips = 0
    for _ in range(12):
        batch = next(trainer.dataloader_train)
        labels = batch["target"][0]
        for item, channel, *box in batch["extra/boxes"].tolist():
            d = len(box) // 2
            inside = labels[(item, 0, *(slice(a, b) for a, b in zip(box[:d], box[d:])))]
            assert channel == 1 and (inside == 1).any()
            # scaled labels may lose a voxel at the corners of a box
            assert (inside != 0).sum() >= inside.numel() - 2**d
            boxes += 1
        assert len(batch["extra/strips"]) == len(batch["extra/bounds"])
        strips += len(batch["extra/strips"])
    assert boxes > 0 and strips > boxes


def test_boxes_whose_class_nobody_knows_are_refused(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path)
    trainer.initialize()
    without_seeds = {"class_locations": {1: [], 2: []}}

    class NoSeeds:
        def __init__(self, folder, cases):
            pass

        def load_case(self, case):
            return None, None, None, without_seeds

    found = trainer.dataset_class
    trainer.on_train_start()
    trainer.dataset_class = NoSeeds
    with pytest.raises(UserError, match="nothing says which class a box is of"):
        trainer._refuse_boxes_of_unknown_class()
    trainer.dataset_class = found
    with pytest.raises(NotImplementedError, match="would look like a box"):
        make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path, padding="ignore").initialize()


def test_augmentation_keeps_boxes_upright(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    spatial = spatial_transform(started(make_trainer("nnUNetTrainerBoxTightness", out, dataset, results=tmp_path)))
    assert (spatial.p_scaling, spatial.p_rotation) == (0.2, 0)
