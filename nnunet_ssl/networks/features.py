"""Features inside nnU-Net's network, read by forward hooks, so that the network and its state dict stay nnU-Net's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class FeatureTap:
    """Keeps what goes into, or comes out of, a module in the latest forward pass in training mode that has a graph.

    Forward passes in evaluation mode (validation, prediction) or without gradient (pseudo labels) leave nothing behind. Make it
    before the first forward pass, so that torch.compile sees the hook, and after copies of the network (teachers), which would have
    a copy of the tap.

    Args:
        module: part of a network.
        side: "input" (its first positional argument) or "output".
        in_evaluation: every forward pass counts: for a teacher, which has no other mode. The features of its latest forward pass
            then stay in memory until they are taken or replaced.

    Raises:
        ValueError: another `side`.
    """

    def __init__(self, module: nn.Module, side: str, in_evaluation: bool = False):
        if side not in ("input", "output"):
            raise ValueError(f"side must be 'input' or 'output', got {side!r}")
        self._side = side
        self._in_evaluation = in_evaluation
        self._features: Tensor | list[Tensor] | None = None
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor | list[Tensor]) -> None:
        if (module.training and torch.is_grad_enabled()) or self._in_evaluation:
            self._features = inputs[0] if self._side == "input" else output

    def take(self) -> Tensor | list[Tensor]:
        """The features `(B, F, *spatial)` of the latest forward pass, with their gradient; they are then forgotten. A list of them
        where the module gives one, as an encoder does.

        Raises:
            RuntimeError: there was no forward pass that counts since the last call.
        """
        features, self._features = self._features, None
        if features is None:
            which = "" if self._in_evaluation else " in training mode with a gradient"
            raise RuntimeError(f"no forward pass{which} since the features were last taken")
        return features


def part_of(network: nn.Module, *names: str) -> nn.ModuleList | nn.Sequential:
    """The list of modules `network.<name>.<name>...`.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    part = network
    for name in names:
        part = getattr(part, name, None)
    if not isinstance(part, (nn.ModuleList, nn.Sequential)):
        raise NotImplementedError(
            f"{type(network).__name__} has no `{'.'.join(names)}`: this method needs a network like nnU-Net's "
            "PlainConvUNet or ResidualEncoderUNet"
        )
    return part


def segmentation_layer(network: nn.Module) -> nn.Module:
    """The last 1x1 convolution of nnU-Net's network; what goes into it are the last decoder features, full resolution.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    return part_of(network, "decoder", "seg_layers")[-1]


def encoder_of(network: nn.Module) -> nn.Module:
    """The encoder; what comes out of it is the list of the features of its stages, the bottleneck last.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    part_of(network, "encoder", "stages")
    return network.encoder


def last_encoder_stage(network: nn.Module) -> nn.Module:
    """The last stage of the encoder; what comes out of it is the bottleneck.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    return part_of(network, "encoder", "stages")[-1]


def decoder_stage(network: nn.Module, below: int) -> nn.Module:
    """The decoder's stage `below` the last one (0), or the first where there are fewer. With strides of 2 its output has 2^-below
    times the resolution of the image.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    stages = part_of(network, "decoder", "stages")
    return stages[max(len(stages) - 1 - below, 0)]


def encoder_stage(network: nn.Module, stride: int) -> tuple[nn.Module, tuple[int, ...], int]:
    """The first stage of the encoder with this stride (voxels of the image per voxel of its output) along some axis.

    Returns:
        the stage (the last one where none reaches `stride`), its stride along each axis, and its number of features.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    stages, encoder = part_of(network, "encoder", "stages"), network.encoder
    strides = np.cumprod(encoder.strides, axis=0).tolist()
    chosen = next((i for i, along_axes in enumerate(strides) if max(along_axes) >= stride), len(strides) - 1)
    return stages[chosen], tuple(strides[chosen]), encoder.output_channels[chosen]


class LevelSetHead(nn.Sequential):
    """`tanh(conv(features))`: a level set in [-1, 1] for each of `channels`, from features `(B, F, *spatial)`.

    Args:
        like: the segmentation layer that reads the same features; gives their number and the dimension.
        channels: foreground classes or regions.
    """

    def __init__(self, like: nn.Module, channels: int):
        super().__init__(type(like)(like.in_channels, channels, kernel_size=1), nn.Tanh())


class ProjectionHead(nn.Sequential):
    """`norm(conv(relu(norm(conv(features)))))` with convolutions of one voxel: embeddings `(B, out_features, *spatial)`.

    Args:
        like: the network's segmentation layer, for the dimension of the convolutions.
        in_features, hidden, out_features: numbers of channels. Instance norm, as in nnU-Net.
    """

    def __init__(self, like: nn.Module, in_features: int, hidden: int, out_features: int):
        norm = nn.InstanceNorm2d if isinstance(like, nn.Conv2d) else nn.InstanceNorm3d
        super().__init__(
            type(like)(in_features, hidden, kernel_size=1, bias=False),
            norm(hidden, affine=True),
            nn.ReLU(inplace=True),
            type(like)(hidden, out_features, kernel_size=1, bias=False),
            norm(out_features, affine=True),
        )
