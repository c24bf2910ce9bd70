"""The trainer for boxes: boxes of augmented patches, and data that it refuses."""

from __future__ import annotations

import pytest

from nnunet_ssl.errors import UserError
from tests.golden.framework import record_calls
from tests.helpers.trainers import spatial_transform
from tests.helpers.training import copy_batch, make_trainer, started


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


@pytest.mark.parametrize("configuration, lowest", [("2d", 0.5), ("3d_fullres", 0.15)])
def test_objects_may_fill_less_of_a_box_in_3d(configuration, lowest, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.size.scaled_bounds")
    for shares in (None, (0.3, 0.4)):
        options = {} if shares is None else {"area_shares": shares}
        folder = tmp_path / str(shares)
        trainer = started(
            make_trainer("nnUNetTrainerBoxTightness", out, dataset, configuration, results=folder, **options)
        )
        trainer.train_step(copy_batch(next(trainer.dataloader_train)))
        assert calls.pop()[0][1:] == (shares or (lowest, 0.9))


@pytest.mark.parametrize(
    "record, configuration, message",
    [
        (
            {"rule": "2d", "margin": 3.0},
            "2d",
            "--margin 3, .* -d Dataset001_Dense -o NEW_ID --kind boxes --rule 2d --axis 0",
        ),
        ({"rule": "3d", "margin": 3.0}, "3d_fullres", "--margin 3, .* --kind boxes --margin 0"),
        ({"rule": "3d"}, "2d", "--rule 3d, tight in volumes"),
        ({"rule": "2d", "axis": 1}, "2d", "--axis 1, while the slices of the 2d configuration lie along axis 0"),
        ({"rule": "2d"}, "2d", None),
        ({"rule": "3d"}, "3d_fullres", None),
        ({"rule": "2d", "axis": 1}, "3d_fullres", None),
    ],
)
def test_boxes_that_were_not_made_tight_are_refused(record, configuration, message, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, boxes=True)
    trainer = make_trainer("nnUNetTrainerBoxTightness", out, dataset, configuration, results=tmp_path)
    options = {"margin": record.get("margin", 0.0), "radius": 1}
    made = {"from": "Dataset001_Dense", "kind": "boxes", "rule": record["rule"], "axis": record.get("axis", 0)}
    trainer.dataset_json = trainer.dataset_json | {"nnunet_ssl": {"weaken": made | {"options": options}}}
    if message is None:
        trainer.check_supported()
    else:
        with pytest.raises(UserError, match=message):
            trainer.initialize()
