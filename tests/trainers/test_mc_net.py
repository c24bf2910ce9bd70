"""nnUNetTrainerMCNet: its decoders and its consistency."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.losses.mutual_consistency import mutual_consistency
from nnunet_ssl.networks.upsampling import InterpolatingUpsampling
from tests.helpers.trainers import next_batches
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerMCNet"


@pytest.mark.parametrize("decoders", [2, 3])
def test_decoders_on_one_encoder_by_hand(decoders, datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, decoders=decoders))
    modes = [
        {layer.mode for layer in d.module.modules() if isinstance(layer, InterpolatingUpsampling)}
        for d in trainer.auxiliaries.values()
    ]
    assert modes == [{"bilinear"}, {"nearest"}][: decoders - 1]
    batch = next(trainer.dataloader_train)
    batch["inside"][0, ..., :5] = False
    images = torch.cat((batch["data"], batch["unlabeled"]))
    with torch.no_grad():
        features = trainer.network.encoder(images)
        scales = [trainer.network(images), *(d.module.decoder(features) for d in trainer.auxiliaries.values())]
    counted = torch.cat((torch.ones_like(batch["data"][:, :1], dtype=torch.bool), batch["inside"]))
    expected = mutual_consistency([z[0] for z in scales], 0.1, mask=counted).item()
    values = trainer.train_step(copy_batch(batch))
    assert values["consistency"] == pytest.approx(expected, rel=1e-4)
    for name, of_decoder in zip(trainer.auxiliaries, scales[1:]):
        labeled = trainer.loss([z[: len(batch["data"])] for z in of_decoder], batch["target"]).item()
        assert values[f"labeled_{name}"] == pytest.approx(labeled, rel=1e-4)


def test_several_processes_get_a_gradient_of_every_parameter_without_labeled_losses_too(datasets, tmp_path):
    """DDP waits for all of them and stopped in the second step; lower scales have labeled losses only."""
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, auxiliary_weight=0.0))
    trainer.is_ddp = True
    batch = SSLBatch.from_loader(next_batches(trainer)[0], trainer.view_names, trainer.device)
    terms, weights = trainer.terms(batch), trainer._current_weights()
    sum(weights[name] * term for name, term in terms.items() if weights[name]).backward()
    for decoder in trainer.auxiliaries.values():
        assert all(p.grad is not None for p in decoder.module.parameters() if p.requires_grad)
