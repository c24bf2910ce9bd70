"""WSCL: which axes are mirrored, and the terms of a patch and its mirror image."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_ssl.losses.points import mirror_consistency
from nnunet_ssl.trainers.sparse.points_consistency import draw_axes, nnUNetTrainerPointsConsistency
from tests.golden.framework import record_calls
from tests.helpers.trainers import sparse_patches


def test_every_choice_of_axes_but_none_is_drawn_alike():
    random = np.random.RandomState(0)
    drawn = [draw_axes((0, 1, 2), random) for _ in range(700)]
    assert set(drawn) == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}
    assert all(60 < drawn.count(axes) < 140 for axes in set(drawn))
    assert {draw_axes((1,), random) for _ in range(20)} == {(1,)}
    with pytest.raises(ValueError, match="switched off"):
        draw_axes((), random)


class Scales(nn.Module):
    """A network of two scales that is not symmetric; counts its forward passes."""

    def __init__(self, axes):
        super().__init__()
        torch.manual_seed(0)
        convolution, self.pool = (nn.Conv2d, nn.AvgPool2d(2)) if axes == 2 else (nn.Conv3d, nn.AvgPool3d(2))
        self.convolution, self.passes = convolution(1, 3, 3, padding=1), 0

    def forward(self, images):
        self.passes += 1
        logits = self.convolution(images)
        return [logits, self.pool(logits)]


@pytest.mark.parametrize("spatial", [(6, 8), (4, 6, 8)])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_wscl_holds_a_patch_and_its_mirror_image_to_the_same_points(spatial, deep_supervision, monkeypatch):
    monkeypatch.setattr(np.random, "randint", lambda low, high: high - 1)  # all axes
    calls = {
        name: record_calls(monkeypatch, name)
        for name in ("nnunet_ssl.losses.points.mirror_consistency", "nnunet_ssl.patches.turns.turn_and_flip")
    }
    _, batch = sparse_patches(spatial)
    generator = torch.Generator().manual_seed(1)
    sizes = [spatial, tuple(n // 2 for n in spatial)][: 2 if deep_supervision else 1]
    targets = [torch.randint(4, (2, 1, *size), generator=generator) for size in sizes]
    batch.target = targets if deep_supervision else targets[0]

    def loss(logits, target, batch):
        pairs = zip(logits, target if deep_supervision else [target])
        return sum(nn.functional.cross_entropy(scale, t[:, 0], ignore_index=3) for scale, t in pairs)

    trainer = types.SimpleNamespace(
        student=Scales(len(spatial)),
        inference_allowed_mirroring_axes=tuple(range(len(spatial))),
        supervised_loss=loss,
        labeled_name=lambda member: "labeled",
        activation="softmax",
    )
    terms = nnUNetTrainerPointsConsistency.terms(trainer, batch)
    assert trainer.student.passes == 1 and all(calls.values())
    axes = tuple(range(2, 2 + len(spatial)))
    plain, of_mirrored = trainer.student(batch.labeled), trainer.student(torch.flip(batch.labeled, axes))
    mirrored = [torch.flip(target, axes) for target in targets]
    expected = {
        "labeled": loss(plain, batch.target, batch),
        "mirrored": loss(of_mirrored, mirrored if deep_supervision else mirrored[0], batch),
        "consistency": mirror_consistency(plain[0], of_mirrored[0], axes, mask=batch.labeled_inside),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-5
    )
    assert terms["consistency"] > 0.01
    assert torch.allclose(batch.labeled_logits["student"][0], plain[0], atol=1e-6)
