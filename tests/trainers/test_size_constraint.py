"""The trainer with size bounds: which bounds count, augmentation, settings."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.errors import UserError
from tests.helpers.trainers import spatial_transform
from tests.helpers.training import copy_batch, make_trainer, started


def test_the_size_trainer_uses_upper_bounds_everywhere_and_lower_ones_where_annotated(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    trainer = started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path, penalty="quadratic"))
    assert trainer.channels == [1, 2] and not trainer.use_lower_bounds  # patches are smaller than images
    trainer.bounds = torch.tensor([[1000.0, 2000.0], [3000.0, 4000.0]])
    batch = next(trainer.dataloader_train)
    labels = batch["target"][0]
    labels[labels == 2] = 3
    labels[0, 0, 0, 0], labels[1][labels[1] == 1] = 1, 3  # organ annotated in the first patch only, lesion nowhere
    assert trainer.train_step(copy_batch(batch))["size"] == 0
    trainer.use_lower_bounds = True
    seen = {}
    trainer.student.module.register_forward_hook(lambda module, inputs, outputs: seen.update(logits=outputs[0]))
    values = trainer.train_step(copy_batch(batch))
    sizes = (seen["logits"].detach().softmax(1) * batch["labeled_inside"])[0, 1].sum()
    expected = (1000 - float(sizes)) ** 2 / 4 / (24 * 24)  # mean over two patches and two classes
    assert values["size"] == pytest.approx(expected, rel=1e-4)
    trainer.absent_unless_annotated = True
    values = trainer.train_step(copy_batch(batch))
    p = seen["logits"].detach().softmax(1) * batch["labeled_inside"]
    sizes = p.flatten(2).sum(2)
    expected = (1000 - sizes[0, 1]) ** 2 + sizes[1, 1] ** 2 + (sizes[:, 2] ** 2).sum()
    assert values["size"] == pytest.approx(float(expected) / 4 / (24 * 24), rel=1e-4)


def test_the_size_trainer_asks_for_bounds(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    with pytest.raises(UserError, match=r"size_bounds.*dataset.json"):
        make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path).initialize()


def test_augmentation_keeps_the_size_of_objects(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0, size_bounds=True)
    spatial = spatial_transform(started(make_trainer("nnUNetTrainerSizeConstraint", out, dataset, results=tmp_path)))
    assert (spatial.p_scaling, spatial.p_rotation) == (0, 0.2)
