"""The network for inference in the student's place, and whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.training import largest_difference, make_trainer, started, weights_of

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_validation_and_checkpoints_leave_the_student_in_place(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    network = trainer.network
    trainer.train_step(next(trainer.dataloader_train))
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(next(trainer.dataloader_val))
    assert trainer.network is network
    assert trainer.teacher.module.decoder.deep_supervision is False
    assert network.decoder.deep_supervision is True
    assert len(trainer.teacher(torch.zeros(1, 1, 24, 24))) == 1


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", [MEAN_TEACHER, "nnUNetTrainerTestShrinkingPool"])
def test_whole_unlabeled_images_are_scored_with_the_inference_network(name, configuration, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, configuration, results=tmp_path))
    before = weights_of(trainer.network)
    seen = []
    in_2d = configuration == "2d"  # in 3D the eight mirrored passes would make this one of the slowest tests
    scores = trainer.score_unlabeled(lambda p: seen.append(p) or float(len(seen)), mirroring=in_2d)
    assert scores == {"free_00": 1.0, "free_01": 2.0, "free_02": 3.0}
    assert all(p.dtype == np.float32 and p.ndim == 4 and np.allclose(p.sum(0), 1, atol=1e-4) for p in seen)
    assert largest_difference(before, weights_of(trainer.network)) == 0
    assert trainer.network.training and trainer.network.decoder.deep_supervision
    if name == MEAN_TEACHER:
        assert not trainer.teacher.module.training and not trainer.teacher.module.decoder.deep_supervision
    trainer.set_unlabeled_cases(["free_01"])
    assert list(trainer.score_unlabeled(lambda p: 0.0, mirroring=False)) == ["free_01"]
    trainer.set_unlabeled_cases([])
    assert trainer.score_unlabeled(lambda p: 0.0) == {} and trainer.unlabeled_pool == []
