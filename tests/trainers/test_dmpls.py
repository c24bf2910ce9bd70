"""DMPLS and DMSPS: the second decoder, the step, checkpoints and settings."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_ssl.engine.members import as_scales
from nnunet_ssl.networks.auxiliary_decoder import AuxiliaryDecoder
from nnunet_ssl.networks.features import encoder_of
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

DMPLS, DMSPS = "nnUNetTrainerScribbleDMPLS", "nnUNetTrainerScribbleDMSPS"


SPARSE = {"ignore": True, "unlabeled": 0}


@pytest.fixture
def trainer_and_batch(datasets, tmp_path):
    def make(name=DMPLS, options=(), **attributes):
        trainer = started(make_trainer(name, *datasets(**SPARSE, **dict(options)), results=tmp_path, **attributes))
        trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch // 2
        return trainer, next(trainer.dataloader_train)

    return make


@pytest.mark.parametrize("residual", [False, True])
def test_the_second_decoder_is_nnunets_without_an_encoder(residual, trainer_and_batch):
    trainer, batch = trainer_and_batch(options={"residual": residual})
    decoder = trainer.auxiliary.module
    own = {k.removeprefix("decoder.") for k in decoder.state_dict()}
    of_student = {k for k in trainer.network.decoder.state_dict() if not k.startswith("encoder.")}
    assert own == of_student
    copied = copy.deepcopy(trainer.network)
    plain = AuxiliaryDecoder(copied, dropout=0.0)
    with torch.no_grad():
        expected = trainer.network(batch["data"])
        features = encoder_of(trainer.network)(batch["data"])
        assert all(torch.equal(a, b) for a, b in zip(plain(features), expected, strict=True))
        other = decoder(features)
        assert [z.shape for z in other] == [z.shape for z in expected]
        assert not torch.equal(other[0], decoder(features)[0]), "other channels are dropped in every call"
        assert not any(torch.equal(a, b) for a, b in zip(other, expected))


def test_half_of_the_channels_of_every_level_are_dropped(trainer_and_batch, monkeypatch):
    trainer, batch = trainer_and_batch()
    calls = record_calls(monkeypatch, "nnunet_ssl.networks.dropout.drop_channels")
    trainer.train_step(copy_batch(batch))
    levels = [args[0].shape[1] for args, _ in calls]
    assert levels == encoder_of(trainer.network).output_channels and {args[1] for args, _ in calls} == {0.5}


@pytest.mark.parametrize("name", [DMPLS, DMSPS])
def test_one_forward_of_the_encoder_per_step_and_both_decoders_and_the_encoder_learn(
    name, trainer_and_batch, monkeypatch
):
    trainer, batch = trainer_and_batch(name)
    calls = []
    forward = trainer.network.encoder.forward
    monkeypatch.setattr(trainer.network.encoder, "forward", lambda x: calls.append(len(x)) or forward(x))
    before = weights_of(trainer.network), weights_of(trainer.auxiliary.module)
    values = trainer.train_step(copy_batch(batch))
    assert calls == [len(batch["data"])] and all(
        values[k] > 0 for k in ("labeled_auxiliary", "pseudo", "pseudo_auxiliary")
    )
    for old, module in zip(before, (trainer.network, trainer.auxiliary.module), strict=True):
        new = weights_of(module)
        still = {k for k in new if torch.equal(old[k], new[k])} - {k for k in new if "seg_layers.0" in k}
        assert not still  # the lowest scale has no weight in nnU-Net's loss
    assert len(trainer.optimizer.param_groups) == 2
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(next(trainer.dataloader_val))
    with pytest.raises(RuntimeError, match="since the features were last taken"):
        trainer.features.take()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("name", [DMPLS, DMSPS])
def test_the_step_is_the_published_one(name, regions, trainer_and_batch, monkeypatch):
    """All terms, from the weights and the patches, for a mixture that is known."""
    trainer, batch = trainer_and_batch(name, options={"regions": regions}, dropout=0.0)
    trainer.loss.weight_factors = (0.75, 0.25)  # nnU-Net's for two scales are 1 and 0
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.37))
    network, decoder = copy.deepcopy(trainer.network), copy.deepcopy(trainer.auxiliary.module)
    values = trainer.train_step(copy_batch(batch))

    with torch.no_grad():
        features = network.encoder(batch["data"])
        scales = [as_scales(network.decoder(features)), as_scales(decoder(features))]
    act = torch.sigmoid if regions else lambda z: z.softmax(1)
    mixed = 0.37 * act(scales[0][0]) + 0.63 * act(scales[1][0])
    target = batch["target"]
    terms = {"labeled": trainer.loss(scales[0], target), "labeled_auxiliary": trainer.loss(scales[1], target)}
    for key, decoded in zip(("pseudo", "pseudo_auxiliary"), scales, strict=True):
        terms[key] = 0.0
        for z, weight in zip(decoded, (0.75, 0.25), strict=True):
            step = mixed.shape[-1] // z.shape[-1]
            inside = batch["labeled_inside"][..., step // 2 :: step, step // 2 :: step]
            p = act(z)
            if name == DMPLS:
                hard = mixed[..., step // 2 :: step, step // 2 :: step]
                hard = hard > 0.5 if regions else nn.functional.one_hot(hard.argmax(1)).movedim(-1, 1)
                top, bottom = 2 * (p * hard * inside).sum((0, 2, 3)), ((p**2 + hard) * inside).sum((0, 2, 3))
                loss = (1 - (top + 1e-5) / (bottom + 1e-5)).mean()
            else:
                soft = nn.functional.avg_pool2d(mixed, step)
                ce = -(soft * p.log()).sum(1, keepdim=True)
                if regions:
                    ce = -(soft * p.log() + (1 - soft) * (1 - p).log())
                loss = (ce * inside).sum() / inside.expand_as(ce).sum()
            terms[key] += weight * loss
    ramp = 1 if name == DMPLS else math.exp(-5 * 0.5**2)
    weights = {"labeled": 1, "labeled_auxiliary": 1} | dict.fromkeys(
        ("pseudo", "pseudo_auxiliary"), trainer.pseudo_weight * ramp
    )
    for key, value in terms.items():
        assert float(values[key]) == pytest.approx(float(value), rel=1e-4), key
    assert float(values["loss"]) == pytest.approx(sum(weights[k] * float(v) for k, v in terms.items()), rel=1e-4)


def test_padding_has_no_pseudo_label(trainer_and_batch):
    trainer, batch = trainer_and_batch(DMSPS, dropout=0.0)
    batch["labeled_inside"].fill_(False)
    values = trainer.train_step(copy_batch(batch))
    assert values["pseudo"] == values["pseudo_auxiliary"] == 0 and values["labeled"] != 0


def test_the_mixture_is_drawn_anew_in_every_step(trainer_and_batch, monkeypatch):
    trainer, batch = trainer_and_batch()
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.mixed_pseudo_labels.mixed_probabilities")
    for _ in range(3):
        trainer.train_step(copy_batch(batch))
    betas = {float(args[2]) for args, _ in calls}
    assert len(betas) == 3 and all(0 <= b < 1 for b in betas)
    assert all(args[2].shape == () for args, _ in calls)


def test_the_soft_trainer_calls_what_the_golden_values_prove(trainer_and_batch, monkeypatch):
    trainer, batch = trainer_and_batch(DMSPS)
    calls = record_calls(monkeypatch, "nnunet_ssl.losses.mixed_pseudo_labels.soft_cross_entropy")
    trainer.train_step(copy_batch(batch))
    assert len(calls) == 2 and not any("double_softmax" in kwargs for _, kwargs in calls)


def test_the_second_decoder_is_in_checkpoints_and_not_in_the_stored_network(trainer_and_batch, datasets, tmp_path):
    trainer, batch = trainer_and_batch()
    trainer.train_step(copy_batch(batch))
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    assert largest_difference(checkpoint["network_weights"], weights_of(trainer.network)) == 0
    stored = checkpoint["ssl_state"]["members"]["auxiliary"]
    assert largest_difference(stored, weights_of(trainer.auxiliary.module)) == 0


def test_wrong_settings_are_refused(datasets, tmp_path):
    with pytest.raises(ValueError, match="dropout"):
        make_trainer(DMPLS, *datasets(**SPARSE), results=tmp_path, dropout=1.0).initialize()


def test_weights_follow_their_ramps(datasets, tmp_path):
    for name, expected in ((DMPLS, [0.5, 0.5, 0.5]), (DMSPS, [8 * math.exp(-5), 8 * math.exp(-1.25), 8])):
        trainer = make_trainer(name, *datasets(**SPARSE), results=tmp_path)
        found = []
        for share in (0, 0.5, 1):
            trainer.iteration = int(share * trainer.num_epochs * trainer.num_iterations_per_epoch)
            weights = trainer.weights()
            assert weights["pseudo"] == weights["pseudo_auxiliary"] and weights["labeled_auxiliary"] == 1
            found.append(weights["pseudo"])
        np.testing.assert_allclose(found, expected)
