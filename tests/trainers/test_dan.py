"""nnUNetTrainerDAN: what its discriminator sees, learns and passes on."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.adversarial_origin import passing_loss
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerDAN"


def test_the_adversarial_term_is_that_of_probabilities_of_unlabeled_patches_without_dropout(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    batch = next(trainer.dataloader_train)
    discriminator = trainer.discriminator.module
    with torch.no_grad():
        maps = torch.softmax(trainer.network(batch["unlabeled"])[0], 1)
        expected = passing_loss(discriminator.eval()(maps, batch["unlabeled"]))
    discriminator.train()
    values = trainer.train_step(copy_batch(batch))
    assert values["adversarial"] == pytest.approx(expected.item(), rel=1e-4)
    assert discriminator.training and all(p.requires_grad for p in discriminator.parameters())


@pytest.mark.parametrize("term, moves_network", [("adversarial", True), ("discriminator", False)])
def test_each_term_moves_one_of_both(term, moves_network, datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    trainer.weights = lambda: {"labeled": 0.0, "adversarial": 0.0, "discriminator": 0.0} | {term: 1.0}
    trainer._weight_names = None
    network, discriminator = weights_of(trainer.network), weights_of(trainer.discriminator.module)
    trainer.train_step(next(trainer.dataloader_train))
    assert (largest_difference(network, weights_of(trainer.network)) > 0) == moves_network
    assert (largest_difference(discriminator, weights_of(trainer.discriminator.module)) > 0) != moves_network


def test_the_discriminator_has_adam_with_a_constant_rate(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, num_epochs=4))
    (group,) = trainer.discriminator.optimizer.param_groups
    assert isinstance(trainer.discriminator.optimizer, torch.optim.Adam)
    for epoch in (0, 3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.99))
    assert trainer.optimizer.param_groups[0]["lr"] < trainer.initial_lr


@pytest.mark.parametrize("sees", [False, True])
def test_the_image_can_be_kept_from_the_discriminator(sees, datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, discriminator_sees_image=sees))
    batch = next(trainer.dataloader_train)
    module, images = trainer.discriminator.module.eval(), batch["unlabeled"]
    with torch.no_grad():
        maps = torch.softmax(trainer.network(images)[0], 1)
        assert torch.equal(module(maps, images), module(maps, 1 - images)) != sees
    assert "discriminator" in trainer.train_step(batch)


def test_it_learns_to_tell_images_apart(datasets, tmp_path):
    sees = {"discriminator_sees_image": True, "discriminator_lr": 1e-2, "discriminator_features": 8}
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, **sees))
    batch = next(trainer.dataloader_train)
    batch["unlabeled"] += 3  # another scanner
    losses = [trainer.train_step(copy_batch(batch))["discriminator"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
