"""nnUNetTrainerUniMatch and its special case FixMatch: what the views are taught, boxes of other patches, perturbed features."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.self_training import self_training_loss
from nnunet_ssl.predictions.hard_labels import sure_labels
from tests.golden.framework import record_calls
from tests.helpers.training import copy_batch, make_trainer, started

AT_ONCE = {"earliest": 0.0, "competence": 0.0, "ramp": 0.0}
UNMIXED = AT_ONCE | {"cutmix": 0.0, "confidence": 0.34}


def trained(name, datasets, tmp_path, configuration="2d", options=None, **attributes):
    return started(
        make_trainer(
            f"nnUNetTrainer{name}", *datasets(**(options or {})), configuration, results=tmp_path, **attributes
        )
    )


def over_scales(trainer, scales, labels, sure, inside) -> float:
    losses = [self_training_loss(z, labels, sure, inside, trainer.activation) for z in scales]
    return sum(w * loss.item() for w, loss in zip(trainer.scale_weights, losses) if w)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("name, views", [("UniMatch", 2), ("FixMatch", 1)])
def test_terms_are_the_losses_of_the_weak_views_sure_labels(name, views, regions, datasets, tmp_path):
    trainer = trained(name, datasets, tmp_path, options={"regions": regions}, feature_dropout=0.0, **UNMIXED)
    batch = next(trainer.dataloader_train)
    assert trainer.view_names == (*(f"strong_{i}" for i in range(views)), "weak")
    *strong, weak = batch["unlabeled"].chunk(views + 1, 1)
    with torch.no_grad():
        of_weak, *of_strong = ([z.clone() for z in trainer.network(x)] for x in (weak, *strong))
    taught = *sure_labels(of_weak[0], 0.34, trainer.activation), batch["inside"]
    values = trainer.train_step(copy_batch(batch))
    expected = [over_scales(trainer, scales, *taught) for scales in of_strong]
    assert taught[1].any() and values["strong"] == pytest.approx(sum(expected) / views, rel=1e-4)
    # without dropout the second decoding is the first one
    of_features = over_scales(trainer, of_weak, *taught) if name == "UniMatch" else 0
    assert values["features"] == pytest.approx(of_features, rel=1e-4)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_boxes_of_the_next_patch_come_with_its_labels(configuration, datasets, tmp_path, monkeypatch):
    trainer = trained("UniMatch", datasets, tmp_path, configuration, smallest_share=0.0, cutmix=1.0, **AT_ONCE)
    mixes, drawn = (
        record_calls(monkeypatch, f"nnunet_ssl.patches.mixing.{f}") for f in ("copy_paste", "draw_occasional_masks")
    )
    seen = []
    handle = trainer.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    batch = next(trainer.dataloader_train)
    views = torch.cat(batch["unlabeled"].chunk(3, 1)[:2])
    trainer.train_step(copy_batch(batch))
    handle.remove()
    partners = torch.cat([x.roll(1, 0) for x in views.chunk(2)])
    mixed = seen[-1]
    assert ((mixed == views) | (mixed == partners)).all() and (mixed != views).any()
    assert len(drawn) == 2 and len(mixes) == 8  # image, label, certainty and inside of two views
    for masks in zip(*[iter(arguments[2] for arguments, _ in mixes)] * 4, strict=True):
        assert all(mask is masks[0] for mask in masks) and not masks[0].flatten(1).all(1).any()


def test_perturbed_features_change_the_second_decoding(datasets, tmp_path):
    values = []
    for dropout in (0.0, 0.9):
        trainer = trained("UniMatch", datasets, tmp_path / str(dropout), feature_dropout=dropout, **UNMIXED)
        values.append(trainer.train_step(next(trainer.dataloader_train)))
    assert values[0]["strong"] == values[1]["strong"] and values[0]["features"] != values[1]["features"]


def test_the_perturbation_of_the_second_version(datasets, tmp_path, monkeypatch):
    trainer = trained("UniMatch", datasets, tmp_path, complementary_dropout=True, feature_weight=0.0, **UNMIXED)
    calls = [
        record_calls(monkeypatch, f"nnunet_ssl.networks.dropout.{f}") for f in ("complementary_masks", "scale_channels")
    ]
    batch = next(trainer.dataloader_train)
    *strong, _ = batch["unlabeled"].chunk(3, 1)
    values = trainer.train_step(copy_batch(batch))
    stages = len(trainer.network.encoder.stages)
    assert all(len(recorded) == stages for recorded in calls) and values["strong"] > 0
    with torch.no_grad():  # outside of the step nothing is dropped
        trainer.network(torch.cat(strong))
    assert len(calls[0]) == stages
    with pytest.raises(ValueError, match="strong_views = 2"):
        trained("FixMatch", datasets, tmp_path / "b", complementary_dropout=True)


class Plain(torch.nn.Module):
    """A network without stages."""

    def __init__(self):
        super().__init__()
        self.layer, self.decoder = torch.nn.Conv2d(1, 3, 1), torch.nn.Module()

    def forward(self, images):
        return self.layer(images)


@pytest.mark.parametrize("name, attributes", [("FixMatch", {}), ("UniMatch", {"feature_weight": 0.0})])
def test_where_no_feature_is_perturbed_any_network_will_do(name, attributes, datasets, tmp_path):
    plain = {"enable_deep_supervision": False, "build_network_architecture": staticmethod(lambda *_, **__: Plain())}
    trainer = trained(name, datasets, tmp_path, **UNMIXED | attributes | plain)
    assert trainer.train_step(next(trainer.dataloader_train))["strong"] > 0
    with pytest.raises(NotImplementedError):
        trained(
            "UniMatch",
            datasets,
            tmp_path / "b",
            complementary_dropout=True,
            **UNMIXED | {"feature_weight": 0.0} | plain,
        )


@pytest.mark.parametrize("form, function", [("dice", "confident_dice_loss"), ("both", "present_dice_loss")])
def test_the_form_of_the_loss(form, function, datasets, tmp_path, monkeypatch):
    trainer = trained("FixMatch", datasets, tmp_path, form=form, **UNMIXED)
    calls = record_calls(monkeypatch, f"nnunet_ssl.losses.self_training.{function}")
    trainer.train_step(next(trainer.dataloader_train))
    assert calls


def test_nothing_unlabeled_is_learned_before_the_start(datasets, tmp_path):
    trainer = trained("UniMatch", datasets, tmp_path)
    assert trainer.weights() == {"strong": 0.0, "features": 0.0}
    trainer.iteration = trainer.total_steps
    assert trainer.weights() == {"strong": 0.5, "features": 0.5}
