"""Tests of `nnunet_ssl.networks.upsampling`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_ssl.networks.upsampling import InterpolatingUpsampling, with_interpolation


@pytest.mark.parametrize(
    "transposed, stride, size", [(nn.ConvTranspose2d, (2, 2), (3, 4)), (nn.ConvTranspose3d, (1, 2, 2), (3, 4, 2))]
)
def test_interpolation_stands_for_the_transposed_convolution(transposed, stride, size):
    layer = transposed(3, 2, stride, stride)
    upsampling = InterpolatingUpsampling(layer)
    features = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    found = upsampling(features)
    assert found.shape == layer(features).shape
    mode = "bilinear" if len(size) == 2 else "trilinear"
    large = F.interpolate(features, found.shape[2:], mode=mode)
    assert torch.allclose(found, upsampling.conv(large), atol=1e-6)


def test_a_network_without_nnunets_decoder_is_refused():
    with pytest.raises(NotImplementedError, match=r"Conv2d has no `decoder\.transpconvs`"):
        with_interpolation(nn.Conv2d(1, 1, 1))


def test_nearest_neighbors_repeat_voxels_and_other_modes_are_refused():
    upsampling = InterpolatingUpsampling(nn.ConvTranspose2d(3, 2, 2, 2), "nearest")
    features = torch.randn(1, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = upsampling.conv(features).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(upsampling(features), expected)
    with pytest.raises(ValueError, match="'linear' or 'nearest', got 'cubic'"):
        InterpolatingUpsampling(nn.ConvTranspose2d(3, 2, 2, 2), "cubic")
