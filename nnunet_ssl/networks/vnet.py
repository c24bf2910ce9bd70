"""V-Net as a network of any plan.

Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation", 3DV 2016,
arXiv:1606.04797. The form that semi-supervised papers use on the left atrium: yulequan/UA-MT, code/networks/vnet.py.

Plans name it by `"network_class_name": "nnunet_ssl.networks.VNet"`; `python -m nnunet_ssl.plans.vnet` writes such plans. It takes
the arguments of nnU-Net's `PlainConvUNet` and has its parts (`encoder.stages`, `decoder.stages`, `decoder.seg_layers`, a head for
each decoder stage), in 2D and 3D, with the normalization that the plans name. It differs from that U-Net in four points:

* between stages a convolution as large as its stride, with normalization and nonlinearity of its own, halves the resolution;
  the convolutions of a stage keep it
* normalization and nonlinearity follow the transposed convolutions as well
* skip connections are added, or concatenated with `concatenate`
* a stage adds its input to its output with `residual`

The two published forms:

                        UA-MT's             the paper's
    concatenate         no                  yes
    residual            no                  yes
    kernels             3                   5
    nonlinearity        ReLU                PReLU
    normalization       batch norm          none
    features            16 32 64 128 256    the same
    convolutions        1 2 3 3 3, 3 3 2 1  the same
    parameters          9.44 million        45.6 million

Both numbers are for one channel and two classes, without the heads at lower resolutions; UA-MT's dropout is not part of the network
(`nnunet_ssl.networks.dropout.HookedDropout` adds it where a method needs it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp, maybe_convert_scalar_to_list
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

T = TypeVar("T")


def _for_each(name: str, value: T | Sequence[T], length: int) -> list[T]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * length
    if len(values) != length:
        raise ValueError(f"{name} must have {length} entries, got {len(values)}: {values}")
    return values


class _Stage(nn.Module):
    """Convolutions at one resolution, `(B, F, *spatial)` to `(B, features, *spatial)`.

    Residual: the input is added before the last nonlinearity. The first stage's input has other channels, the image's: their
    mean is added to every feature (with one channel this is the paper's form).
    """

    def __init__(self, count: int, input_features: int, features: int, kernel_size, residual: bool, block: dict):
        super().__init__()
        self.residual = residual
        self.conv_op, self.features = block["conv_op"], features
        last = {**block, "nonlin": None} if residual else block
        self.convs = nn.Sequential(
            *(
                ConvDropoutNormReLU(
                    input_channels=input_features if i == 0 else features,
                    output_channels=features,
                    kernel_size=kernel_size,
                    stride=1,
                    **(block if i < count - 1 else last),
                )
                for i in range(count)
            )
        )
        nonlin = block["nonlin"]
        self.nonlin = nonlin(**(block["nonlin_kwargs"] or {})) if residual and nonlin is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output = self.convs(x)
        if not self.residual:
            return output
        return self.nonlin(output + (x if x.shape[1] == output.shape[1] else x.mean(1, keepdim=True)))

    def feature_map_size(self, size: Sequence[int]) -> int:
        return len(self.convs) * self.features * int(np.prod(size, dtype=np.int64))


class VNetEncoder(nn.Module):
    """The left side: one stage per resolution; its output is a list of their features, the bottleneck last."""

    def __init__(
        self,
        input_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence,
        strides: Sequence,
        counts: Sequence[int],
        residual: bool,
        block: dict,
    ):
        super().__init__()
        self.conv_op = block["conv_op"]
        self.output_channels = list(features)
        self.strides = [maybe_convert_scalar_to_list(self.conv_op, s) for s in strides]
        stages = []
        for s, (count, width, kernel, stride) in enumerate(
            zip(counts, features, kernel_sizes, self.strides, strict=True)
        ):
            parts = []
            if s > 0 or max(stride) > 1:
                parts.append(
                    ConvDropoutNormReLU(
                        input_channels=input_channels, output_channels=width, kernel_size=stride, stride=stride, **block
                    )
                )
                input_channels = width
            parts.append(_Stage(count, input_channels, width, kernel, residual, block))
            stages.append(nn.Sequential(*parts))
            input_channels = width
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def feature_map_size(self, size: Sequence[int]) -> int:
        total = 0
        for stage, stride in zip(self.stages, self.strides, strict=True):
            size = [n // s for n, s in zip(size, stride, strict=True)]
            total += stage[-1].feature_map_size(size)
            total += (len(stage) - 1) * stage[-1].features * int(np.prod(size, dtype=np.int64))
        return total


class VNetDecoder(nn.Module):
    """The right side, stages in the order of computation: lowest resolution first.

    All heads exist with and without deep supervision, so that weights fit both, as in nnU-Net's decoder.
    """

    def __init__(
        self,
        encoder: VNetEncoder,
        num_classes: int,
        kernel_sizes: Sequence,
        counts: Sequence[int],
        residual: bool,
        concatenate: bool,
        deep_supervision: bool,
        block: dict,
    ):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.concatenate = concatenate
        self.num_classes = num_classes
        transposed = get_matching_convtransp(conv_op=encoder.conv_op)
        stages, transpconvs, seg_layers = [], [], []
        below = encoder.output_channels[-1]
        for s, count in enumerate(counts):
            skip, stride = encoder.output_channels[-(s + 2)], encoder.strides[-(s + 1)]
            up = [transposed(below, skip, stride, stride, bias=block["conv_bias"])]
            if block["norm_op"] is not None:
                up.append(block["norm_op"](skip, **(block["norm_op_kwargs"] or {})))
            if block["nonlin"] is not None:
                up.append(block["nonlin"](**(block["nonlin_kwargs"] or {})))
            transpconvs.append(nn.Sequential(*up))
            below = 2 * skip if concatenate else skip
            stages.append(_Stage(count, below, below, kernel_sizes[-(s + 2)], residual, block))
            seg_layers.append(encoder.conv_op(below, num_classes, 1, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transpconvs)
        self.seg_layers = nn.ModuleList(seg_layers)

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x = skips[-1]
        logits = []
        for s, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x, skip = up(x), skips[-(s + 2)]
            x = stage(torch.cat((x, skip), 1) if self.concatenate else x + skip)
            if self.deep_supervision or s == len(self.stages) - 1:
                logits.append(head(x))
        return logits[::-1] if self.deep_supervision else logits[0]

    def feature_map_size(self, sizes: Sequence[Sequence[int]]) -> int:
        """`sizes`: of the encoder's stages, without the bottleneck."""
        total = 0
        for s, (up, stage, size) in enumerate(zip(self.transpconvs, self.stages, reversed(sizes), strict=True)):
            heads = self.num_classes * (self.deep_supervision or s == len(self.stages) - 1)
            total += stage.feature_map_size(size) + (up[0].out_channels + heads) * int(np.prod(size, dtype=np.int64))
        return total


class VNet(nn.Module):
    """V-Net with the interface of nnU-Net's networks: logits `(B, num_classes, *spatial)`, or a list of them.

    Args:
        input_channels, num_classes: of images and logits; nnU-Net gives them.
        n_stages: resolutions.
        features_per_stage: feature maps of each stage.
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        kernel_sizes: of each stage, for encoder and decoder; odd.
        strides: of each stage; how much smaller its maps are than those of the stage before. The first is 1 in nnU-Net's plans.
        n_conv_per_stage, n_conv_per_stage_decoder: convolutions of each stage beside those that change the resolution.
        conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs: as in nnU-Net's plans.
        deep_supervision: a list of logits of all decoder stages, highest resolution first; may be switched on the decoder.
        residual: each stage adds its input to its output, as in the paper.
        concatenate: skip connections are concatenated as in the paper, which doubles the width of the decoder; else added.

    Raises:
        ValueError: a list that does not have one entry for each stage.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence,
        strides: int | Sequence,
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = True,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict | None = None,
        deep_supervision: bool = False,
        residual: bool = False,
        concatenate: bool = False,
    ):
        super().__init__()
        block = {
            "conv_op": conv_op,
            "conv_bias": conv_bias,
            "norm_op": norm_op,
            "norm_op_kwargs": norm_op_kwargs,
            "dropout_op": dropout_op,
            "dropout_op_kwargs": dropout_op_kwargs,
            "nonlin": nonlin,
            "nonlin_kwargs": nonlin_kwargs,
        }
        kernels = _for_each("kernel_sizes", kernel_sizes, n_stages)
        self.encoder = VNetEncoder(
            input_channels,
            _for_each("features_per_stage", features_per_stage, n_stages),
            kernels,
            _for_each("strides", strides, n_stages),
            _for_each("n_conv_per_stage", n_conv_per_stage, n_stages),
            residual,
            block,
        )
        self.decoder = VNetDecoder(
            self.encoder,
            num_classes,
            kernels,
            _for_each("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1),
            residual,
            concatenate,
            deep_supervision,
            block,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder(x))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Numbers that all convolutions give for one image of this size (spatial axes), nnU-Net's measure of memory."""
        sizes, size = [], list(input_size)
        for stride in self.encoder.strides:
            size = [n // s for n, s in zip(size, stride, strict=True)]
            sizes.append(size)
        return self.encoder.feature_map_size(input_size) + self.decoder.feature_map_size(sizes[:-1])

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He initialization, nnU-Net's; `network.apply(network.initialize)`."""
        InitWeights_He(1e-2)(module)
