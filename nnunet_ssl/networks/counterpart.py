"""A second architecture from the same plans: residual encoder where the plans have plain convolutions, and the reverse."""

from __future__ import annotations

import inspect
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
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
    return get_network_from_plans(name, kwargs, required, input_channels, channels, deep_supervision=deep_supervision)
