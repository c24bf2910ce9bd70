"""Features inside nnU-Net's network, read by forward hooks, so that the network and its state dict stay nnU-Net's own."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureTap:
    """Keeps what goes into, or comes out of, a module in the latest forward in training mode.

    Forwards in evaluation mode (validation, prediction) leave nothing behind. Make it before the first forward, so that
    torch.compile sees the hook.

    Args:
        module: part of a network.
        side: "input" (its first positional argument) or "output".

    Raises:
        ValueError: another `side`.
    """

    def __init__(self, module: nn.Module, side: str):
        if side not in ("input", "output"):
            raise ValueError(f"side must be 'input' or 'output', got {side!r}")
        self._side = side
        self._features: Tensor | None = None
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if module.training:
            self._features = inputs[0] if self._side == "input" else output

    def take(self) -> Tensor:
        """The features `(B, F, *spatial)` of the latest forward, with their gradient; they are then forgotten.

        Raises:
            RuntimeError: there was no forward in training mode since the last call.
        """
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError("no forward in training mode since the features were last taken")
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


def last_encoder_stage(network: nn.Module) -> nn.Module:
    """The last stage of the encoder; what comes out of it is the bottleneck.

    Raises:
        NotImplementedError: the network is not built like nnU-Net's.
    """
    return part_of(network, "encoder", "stages")[-1]


class LevelSetHead(nn.Sequential):
    """`tanh(conv(features))`: a level set in [-1, 1] for each of `channels`, from features `(B, F, *spatial)`.

    Args:
        like: the segmentation layer that reads the same features; gives their number and the dimension.
        channels: foreground classes or regions.
    """

    def __init__(self, like: nn.Module, channels: int):
        super().__init__(type(like)(like.in_channels, channels, kernel_size=1), nn.Tanh())
