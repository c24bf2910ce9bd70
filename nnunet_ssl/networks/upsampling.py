"""Interpolation in place of transposed convolutions: a second decoder that differs from nnU-Net's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ssl.networks.features import part_of

_CONVOLUTIONS = {nn.ConvTranspose2d: (nn.Conv2d, "bilinear"), nn.ConvTranspose3d: (nn.Conv3d, "trilinear")}


class InterpolatingUpsampling(nn.Module):
    """1x1 convolution, then interpolation by the stride of the transposed convolution that it stands for.

    In this order it gives the same as the other way round, from fewer voxels.

    Args:
        transposed: gives channels, stride and bias.
        mode: of the interpolation, "linear" or "nearest".

    Raises:
        ValueError: another mode.
    """

    def __init__(self, transposed: nn.ConvTranspose2d | nn.ConvTranspose3d, mode: str = "linear"):
        super().__init__()
        if mode not in ("linear", "nearest"):
            raise ValueError(f"mode must be 'linear' or 'nearest', got {mode!r}")
        convolution, linear = _CONVOLUTIONS[type(transposed)]
        self.mode = linear if mode == "linear" else mode
        self.stride = transposed.stride
        has_bias = transposed.bias is not None
        self.conv = convolution(transposed.in_channels, transposed.out_channels, kernel_size=1, bias=has_bias)

    def forward(self, features: Tensor) -> Tensor:
        size = [extent * step for extent, step in zip(features.shape[2:], self.stride)]
        return F.interpolate(self.conv(features), size, mode=self.mode)


def with_interpolation(network: nn.Module, mode: str = "linear") -> nn.Module:
    """Replace the transposed convolutions of a network's decoder, with nnU-Net's initialization; returns the network itself.

    Args:
        mode: of the interpolation, "linear" or "nearest".

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    upsampling = part_of(network, "decoder", "transpconvs")
    # V-Net has normalization and nonlinearity beside each transposed convolution, the U-Nets have the convolution alone
    for parent in list(upsampling.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) in _CONVOLUTIONS:
                setattr(parent, name, InterpolatingUpsampling(layer, mode))
    upsampling.apply(network.initialize)
    return network
