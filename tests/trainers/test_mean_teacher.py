"""Mean Teacher and all whose teacher labels patches: what the teacher sees. And networks that label patches for one another."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.errors import UserError
from tests.helpers.trainers import needs
from tests.helpers.training import make_trainer, started

WITHOUT_NOISE = {"noise_std": 0.0}
WITHOUT_PRETRAINING = {"pretrain_fraction": 0.0, "competence": 0.0}
UNLABELED, LABELED = ("unlabeled",), ("data",)
# attributes, and the streams whose patches the teacher sees, in their order
METHODS = {
    "nnUNetTrainerMeanTeacher": (WITHOUT_NOISE, UNLABELED),
    "nnUNetTrainerUAMT": (WITHOUT_NOISE, UNLABELED),
    "nnUNetTrainerACMT": (WITHOUT_NOISE, UNLABELED),
    "nnUNetTrainerDyCON": (WITHOUT_NOISE, LABELED + UNLABELED),
    "nnUNetTrainerICT": ({}, UNLABELED),
    "nnUNetTrainerUPC": (WITHOUT_NOISE, LABELED + UNLABELED),
    "nnUNetTrainerBCP": (WITHOUT_PRETRAINING, UNLABELED),
    "nnUNetTrainerSDCL": (WITHOUT_PRETRAINING, UNLABELED),
    "nnUNetTrainerScribbleUSTM": (WITHOUT_NOISE, LABELED),
    "nnUNetTrainerPartialLabelMT": ({"warmup_fraction": 0.0, "competence": 0.0}, LABELED),
}
# networks that label patches for one another (their own tests have a step by hand)
MUTUAL = ("nnUNetTrainerCPS", "nnUNetTrainerMCF", "nnUNetTrainerCML", "nnUNetTrainerCrossTeaching")
# further trainers of several networks, and what their other networks are for
OTHERS = {
    "nnUNetTrainerADMT": "teachers that see the weak view alone",
    "nnUNetTrainerSemiSupervised": "a teacher that sees the weak view alone",
    "nnUNetTrainerEMA": "the average that is stored; it labels nothing",
    "nnUNetTrainerDeepCoTraining": "two networks are to agree; neither labels anything",
}


def test_every_trainer_of_several_networks_is_listed():
    several = {name for name, cls in trainer_classes().items() if len(cls.networks) > 1}
    assert several == {*METHODS, *MUTUAL, *OTHERS}


def seen_by_the_teacher(name, datasets, tmp_path, monkeypatch, teacher_view: str, views: int):
    """What the teacher gets in a step, and what it should see: the last of `views` views, where all differ."""
    monkeypatch.setattr("nnunet_ssl.trainers.sparse.ustm.np.random.randint", lambda *_: 0)  # no rotation
    out, dataset = datasets(**needs(name))
    attributes, streams = METHODS[name]
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, teacher_view=teacher_view, **attributes))
    seen = []
    trainer.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = next(trainer.dataloader_train)
    expected = []
    for stream in streams:
        parts = batch[stream].chunk(views, dim=1)
        if views == 2:
            parts[0].add_(0.1 * torch.randn_like(parts[0]))  # they differ, whatever was drawn for the batch
        expected.append(parts[-1].clone())
    trainer.train_step(batch)
    return seen, torch.cat(expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_sees_the_patch_without_nnunets_intensities(name, datasets, tmp_path, monkeypatch):
    seen, weak = seen_by_the_teacher(name, datasets, tmp_path, monkeypatch, "weak", 2)
    assert seen and all(torch.equal(images, weak) for images in seen)


@pytest.mark.parametrize("name", METHODS)
def test_the_students_view_is_one_attribute_away(name, datasets, tmp_path, monkeypatch):
    seen, patch = seen_by_the_teacher(name, datasets, tmp_path, monkeypatch, "student", 1)
    assert seen and all(torch.equal(images, patch) for images in seen)


@pytest.mark.parametrize("name", MUTUAL)
def test_each_network_labels_the_patch_without_nnunets_intensities(name, datasets, tmp_path):
    settings = WITHOUT_PRETRAINING if name == "nnUNetTrainerCML" else {}
    trainer = started(make_trainer(name, *datasets(), results=tmp_path, **settings))
    seen = {member.name: [] for member in trainer.supervised_networks()}

    def watch(images: torch.Tensor, network: str) -> None:
        if not torch.is_grad_enabled():
            seen[network].append(images.clone())

    for member in trainer.supervised_networks():
        member.module.register_forward_pre_hook(lambda _, inputs, network=member.name: watch(inputs[0], network))
    batch = next(trainer.dataloader_train)
    strong, weak = batch["unlabeled"].chunk(2, dim=1)
    strong.add_(0.1 * torch.randn_like(strong))  # they differ, whatever was drawn for the batch
    weak = weak.clone()
    trainer.train_step(batch)
    for images in seen.values():
        assert any(torch.equal(image, weak) for image in images)
        assert not any(len(image) == len(strong) and torch.equal(image, strong) for image in images)


@pytest.mark.parametrize("name", [*METHODS, *MUTUAL])
def test_another_view_is_refused(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    with pytest.raises(UserError, match=r"sets 'teacher_view = 'strong''\. Allowed: 'weak' or 'student'"):
        started(make_trainer(name, out, dataset, results=tmp_path, teacher_view="strong"))
