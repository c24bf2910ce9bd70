"""The unlabeled stream in a real run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.dataloading.streams import refuse_single_patches
from nnunet_ssl.errors import UserError
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.training import make_trainer, started

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_the_pool_can_shrink_to_nothing(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.set_unlabeled_cases(["free_01"])
    batch = next(trainer.dataloader_train)
    assert set(map(str, batch["unlabeled_keys"])) == {"free_01"}
    with pytest.raises(ValueError, match="case_00"):
        trainer.set_unlabeled_cases(["case_00"])
    trainer.set_unlabeled_cases([])
    batch = next(trainer.dataloader_train)
    assert "unlabeled" not in batch
    assert trainer.train_step(batch)["consistency"] == 0


def test_unlabeled_patches_pass_through_nnunets_geometry_and_intensity(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerTestShrinkingPool", out, dataset, results=tmp_path))
    batch = next(trainer.dataloader_train)
    weak, strong = batch["unlabeled"].chunk(2, dim=1)
    assert trainer.view_names == ("weak", "strong")
    assert weak.shape == strong.shape == (2, 1, 24, 24) and batch["inside"].dtype == torch.bool
    # same geometry: the views of one patch resemble each other, those of different patches do not
    pairs = [np.corrcoef(weak[i].ravel(), strong[i].ravel())[0, 1] for i in range(2)]
    assert min(pairs) > 0.7
    views = trainer.dataloader_train.data_loader.unlabeled.transforms
    names = [type(t).__name__ for t in views.geometry.transforms]
    assert names == ["SpatialTransform", "MirrorTransform"]
    assert len(views.views["strong"].transforms) == 8 and not views.views["weak"].transforms


def test_padding_is_marked_as_outside(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    outside = 0
    for _ in range(20):
        batch = next(trainer.dataloader_train)
        outside += int((~batch["inside"]).sum())
        if outside:
            break
    assert outside


def _count_foreground(target):
    return {"voxels": (target > 0).flatten(1).sum(1), "shape": torch.tensor(target.shape)}


class _WithExtras(nnUNetTrainerSSL):
    def labeled_extras(self):
        return _count_foreground

    def terms(self, batch):
        self.seen = batch.extras, batch.target
        return self.labeled_terms(batch)

    def weights(self):
        return {"unused": 1.0}


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_labeled_extras_come_from_the_target_at_full_resolution(datasets, tmp_path, deep_supervision):
    out, dataset = datasets()
    trainer = started(
        make_trainer(_WithExtras, out, dataset, results=tmp_path, enable_deep_supervision=deep_supervision)
    )
    trainer.train_step(next(trainer.dataloader_train))
    extras, target = trainer.seen
    target = target[0] if deep_supervision else target
    assert sorted(extras) == ["shape", "voxels"]
    assert torch.equal(extras["voxels"], (target > 0).flatten(1).sum(1))
    assert extras["shape"].tolist() == list(target.shape)
    assert "extra/voxels" not in next(trainer.dataloader_val)


def test_methods_that_mix_patches_refuse_a_single_one(datasets, tmp_path):
    trainer = make_trainer(MEAN_TEACHER, *datasets(), results=tmp_path, unlabeled_batch_size=1)
    trainer.initialize()
    with pytest.raises(UserError, match=r"each process has 1 of them in a step. Set unlabeled_batch_size = 2 or more"):
        refuse_single_patches(trainer)
    trainer.unlabeled_batch_size = 2
    refuse_single_patches(trainer)
