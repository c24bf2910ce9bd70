"""nnUNetTrainerRDrop: which passes have dropout, and both of its forms."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.consistency import symmetric_kl
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerRDrop"


def test_two_passes_of_one_network_differ_by_dropout_on_unlabeled_patches_alone(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        labeled = trainer.loss(trainer.network(batch["data"]), batch["target"])
        plain = trainer.network(batch["unlabeled"])[0]
    outputs = []
    handle = trainer.network.register_forward_hook(lambda *a: outputs.append([z.detach().clone() for z in a[2]]))
    values = trainer.train_step(copy_batch(batch))
    handle.remove()
    assert [len(scales[0]) for scales in outputs] == [len(batch["data"]), 2 * len(batch["unlabeled"])]
    assert values["labeled"] == pytest.approx(labeled.item(), rel=1e-6)
    first, second = outputs[1][0].chunk(2)
    assert not torch.equal(first, plain) and not torch.equal(first, second)
    assert values["agreement"] == pytest.approx(symmetric_kl(first, second, mask=batch["inside"]).item(), rel=1e-4)
    assert values["agreement"] > 0


def test_two_networks_without_dropout(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, two_networks=True, dropout=0.0))
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        first, second = (network(batch["unlabeled"])[0] for network in trainer.supervised_networks())
    values = trainer.train_step(copy_batch(batch))
    assert values["agreement"] == pytest.approx(symmetric_kl(first, second, mask=batch["inside"]).item(), rel=1e-4)
    assert values["labeled_second"] != values["labeled"]


def test_one_network_without_dropout_is_refused(datasets, tmp_path):
    with pytest.raises(ValueError, match="both passes of one network would be the same"):
        make_trainer(NAME, *datasets(), results=tmp_path, dropout=0.0).initialize()
