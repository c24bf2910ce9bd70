"""Tests of `nnunet_ssl.networks.features`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.features import (
    FeatureTap,
    LevelSetHead,
    ProjectionHead,
    encoder_of,
    last_encoder_stage,
    segmentation_layer,
)


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_tap_keeps_the_features_of_the_latest_training_forward_once():
    layer = nn.Conv2d(2, 3, 1)
    before, after = FeatureTap(layer, "input"), FeatureTap(layer, "output")
    x = draw(1, 2, 4, 4).requires_grad_()
    y = layer(x)
    assert before.take() is x and after.take() is y
    with pytest.raises(RuntimeError, match="since the features were last taken"):
        before.take()
    layer.eval()(x)
    with pytest.raises(RuntimeError):
        after.take()
    y = layer.train()(x)
    with torch.no_grad():
        layer(x)  # for pseudo labels, in the same step
    assert after.take() is y
    with pytest.raises(ValueError, match="'input' or 'output'"):
        FeatureTap(layer, "both")
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("convolution, spatial", [(nn.Conv2d, (4, 4)), (nn.Conv3d, (4, 4, 2))])
def test_the_head_has_one_bounded_channel_per_object(convolution, spatial):
    head = LevelSetHead(convolution(5, 3, 1), 2)
    level_set = head(10 * draw(2, 5, *spatial))
    assert level_set.shape == (2, 2, *spatial)
    assert level_set.abs().max() <= 1


def test_a_network_of_another_build_is_refused():
    with pytest.raises(NotImplementedError, match=r"Conv2d has no `decoder\.seg_layers`"):
        segmentation_layer(nn.Conv2d(1, 1, 1))
    with pytest.raises(NotImplementedError, match=r"encoder\.stages"):
        last_encoder_stage(nn.Conv2d(1, 1, 1))
    with pytest.raises(NotImplementedError, match=r"Linear has no `encoder\.stages`"):
        encoder_of(nn.Linear(1, 1))


def test_a_tap_of_a_teacher_keeps_features_in_evaluation_mode():
    layer = torch.nn.Conv2d(2, 3, 1).eval()
    tap = FeatureTap(layer, "output", in_evaluation=True)
    output = layer(torch.ones(1, 2, 4, 4))
    assert tap.take() is output
    with pytest.raises(RuntimeError, match="no forward pass since"):
        tap.take()


@pytest.mark.parametrize("convolution, grid", [(torch.nn.Conv2d, (3, 2)), (torch.nn.Conv3d, (3, 2, 2))])
def test_the_projection_head_keeps_the_grid(convolution, grid):
    head = ProjectionHead(convolution(4, 2, 1), 5, 7, 6)
    assert head(torch.randn(2, 5, *grid)).shape == (2, 6, *grid)
    assert list(map(len, map(list, (head.buffers(), head.parameters())))) == [0, 6]
