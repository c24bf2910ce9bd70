"""A second architecture from the same plans: residual encoder where the plans have plain convolutions, and the reverse."""

from __future__ import annotations

import inspect
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

_OTHER = {"PlainConvUNet": ResidualEncoderUNet, "ResidualEncoderUNet": PlainConvUNet}
CONVOLUTIONS_PER_STAGE = 2  # nnU-Net's plain encoder


def counterpart_architecture(class_name: str, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The U-Net of the other kind with the same stages, features, kernels, strides, normalization and decoder.

    A plain encoder of n convolutions per stage becomes a residual one of n blocks per stage; a residual encoder becomes a plain one
    of nnU-Net's two convolutions per stage.

    Args:
        class_name: dotted name of the planned architecture (`network_arch_class_name`).
        kwargs: its arguments as they stand in the plans (`network_arch_init_kwargs`); not changed.

    Returns:
        dotted class name and arguments of the other architecture, for nnU-Net's `get_network_from_plans`.

    Raises:
        NotImplementedError: the plans have neither of the two architectures.
    """
    planned = class_name.rsplit(".", 1)[-1]
    if planned not in _OTHER:
        raise NotImplementedError(
            f"there is no counterpart of the architecture {class_name}; there is for {sorted(_OTHER)}"
        )
    other = _OTHER[planned]
    known = inspect.signature(other.__init__).parameters
    result = {name: value for name, value in kwargs.items() if name in known}
    if other is ResidualEncoderUNet:
        result["n_blocks_per_stage"] = kwargs["n_conv_per_stage"]
    else:
        result["n_conv_per_stage"] = [CONVOLUTIONS_PER_STAGE] * kwargs["n_stages"]
    return f"{other.__module__}.{other.__name__}", result


def _initialize(module: nn.Module) -> None:
    """nnU-Net's first weights of a module of either network; residual blocks begin without their branch.

    nnU-Net sets scale and shift of a branch's last normalization to 0, and fails where plans have no normalization (`norm_op` null)
    or one without scale. Without any, the last convolution is set to 0, which is the same. One without scale would divide this 0
    by its spread, so such a branch begins as it is.
    """
    InitWeights_He(1e-2)(module)
    if isinstance(module, (BasicBlockD, BottleneckD)):
        last = module.conv3 if isinstance(module, BottleneckD) else module.conv2
        for parameter in getattr(last, "norm", last.conv).parameters():
            nn.init.zeros_(parameter)


def build_counterpart(configuration, input_channels: int, channels: int, deep_supervision: bool) -> nn.Module:
    """The network of `counterpart_architecture`, with new random weights.

    Args:
        configuration: nnU-Net's `ConfigurationManager`.
        input_channels, channels: of images and logits.

    Raises:
        NotImplementedError: the plans have neither of the two architectures.
    """
    name, kwargs = counterpart_architecture(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs
    )
    required = configuration.network_arch_init_kwargs_req_import
    network = get_network_from_plans(
        name, kwargs, required, input_channels, channels, allow_init=False, deep_supervision=deep_supervision
    )
    return network.apply(_initialize)
