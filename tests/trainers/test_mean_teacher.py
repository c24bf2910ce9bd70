"""Mean Teacher: what the teacher sees."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.training import make_trainer, started

NAMES = ("nnUNetTrainerMeanTeacher", "nnUNetTrainerUAMT")


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_sees_the_patch_without_nnunets_intensities(name, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, noise_std=0.0))
    seen = []
    trainer.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = next(trainer.dataloader_train)
    student, weak = batch["unlabeled"].chunk(2, dim=1)
    trainer.train_step(batch)
    assert seen and all(torch.equal(images, weak) for images in seen)
    assert not torch.equal(student, weak)


@pytest.mark.parametrize("name", NAMES)
def test_the_official_view_is_one_attribute_away(name, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, noise_std=0.0, teacher_view="unlabeled"))
    seen = []
    trainer.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = next(trainer.dataloader_train)
    unlabeled = batch["unlabeled"].clone()
    trainer.train_step(batch)
    assert seen and all(torch.equal(images, unlabeled) for images in seen)


def test_another_view_is_refused(datasets, tmp_path):
    out, dataset = datasets()
    with pytest.raises(ValueError, match="teacher_view must be 'weak' or 'unlabeled', got 'strong'"):
        started(make_trainer(NAMES[0], out, dataset, results=tmp_path, teacher_view="strong"))
