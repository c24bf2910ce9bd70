"""Mean Teacher and those of its kind: what the teacher sees."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.training import make_trainer, started

WITHOUT_NOISE = {"noise_std": 0.0}
WITHOUT_PRETRAINING = {"pretrain_fraction": 0.0, "competence": 0.0}
METHODS = {
    "nnUNetTrainerMeanTeacher": WITHOUT_NOISE,
    "nnUNetTrainerUAMT": WITHOUT_NOISE,
    "nnUNetTrainerACMT": WITHOUT_NOISE,
    "nnUNetTrainerDyCON": WITHOUT_NOISE,  # its teacher sees the labeled patches before the unlabeled ones
    "nnUNetTrainerICT": {},
    "nnUNetTrainerUPC": WITHOUT_NOISE,
    "nnUNetTrainerBCP": WITHOUT_PRETRAINING,
    "nnUNetTrainerSDCL": WITHOUT_PRETRAINING,
}


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_sees_the_patch_without_nnunets_intensities(name, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, **METHODS[name]))
    seen = []
    trainer.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = next(trainer.dataloader_train)
    student, weak = batch["unlabeled"].chunk(2, dim=1)
    student += 0.1 * torch.randn_like(student)  # in place: they differ, whatever was drawn for the batch
    trainer.train_step(batch)
    assert seen and all(torch.equal(images[-len(weak) :], weak) for images in seen)


@pytest.mark.parametrize("name", METHODS)
def test_the_official_view_is_one_attribute_away(name, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, **METHODS[name], teacher_view="unlabeled"))
    seen = []
    trainer.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = next(trainer.dataloader_train)
    unlabeled = batch["unlabeled"].clone()
    trainer.train_step(batch)
    assert seen and all(torch.equal(images[-len(unlabeled) :], unlabeled) for images in seen)


def test_another_view_is_refused(datasets, tmp_path):
    out, dataset = datasets()
    with pytest.raises(ValueError, match="teacher_view must be 'weak' or 'unlabeled', got 'strong'"):
        started(make_trainer("nnUNetTrainerMeanTeacher", out, dataset, results=tmp_path, teacher_view="strong"))
