"""nnUNetTrainerSASSNet: level sets, their distances, and the discriminator that sees them."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.patches.distance_maps import has_boundary, signed_distance_maps
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerSASSNet"


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_level_sets_are_compared_with_the_distances_of_the_labels(configuration, datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), configuration, results=tmp_path))
    batch = next(trainer.dataloader_train)
    seen = []
    handle = trainer.level_set.module.register_forward_hook(lambda *a: seen.append(a[2].detach().clone()))
    values = trainer.train_step(copy_batch(batch))
    handle.remove()
    target = batch["target"][0]
    channels = seen[0].shape[1]
    maps = signed_distance_maps(torch.cat([target == c for c in range(1, channels + 1)], 1))
    error = (seen[0][: len(target)] - maps) ** 2
    expected = error[has_boundary(maps).expand_as(error)].mean()
    assert values["sdf"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("regions", [False, True])
def test_the_discriminator_sees_level_sets_and_images(regions, datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer(NAME, *datasets(regions=regions), results=tmp_path))
    judged = record_calls(monkeypatch, "nnunet_ssl.losses.adversarial_origin.origin_loss")
    seen = []
    handle = trainer.discriminator.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    batch = next(trainer.dataloader_train)
    trainer.train_step(copy_batch(batch))
    handle.remove()
    (maps, images), (passed, unlabeled) = seen
    assert torch.equal(images, torch.cat((batch["data"], batch["unlabeled"]))) and judged
    assert torch.equal(unlabeled, batch["unlabeled"]) and torch.equal(passed, maps[len(batch["data"]) :])
    assert maps.shape[1] == trainer.num_objects and maps.abs().max() <= 1
    assert not maps.requires_grad and passed.requires_grad


def test_weights(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    trainer.iteration = trainer.total_steps
    assert trainer.weights() == {"sdf": 0.3, "adversarial": 0.01, "discriminator": 1.0}
