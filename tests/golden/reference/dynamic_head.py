"""DoDNet's dynamic head: three 1x1x1 convolutions whose weights a controller makes for every case. As reference.

Zhang et al., "DoDNet", CVPR 2021 (jianpengz/DoDNet). The head needs the task of a case also for prediction, so no trainer uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dynamic_head(
    features: Tensor, parameters: Tensor, weights: Sequence[int], biases: Sequence[int], channels: int
) -> Tensor:
    """The head of every case with weights of its own; ReLU between the layers, none after the last.

    Args:
        features: `(B, channels, *spatial)`.
        parameters: `(B, P)`: all weights of all layers, each `(out, in)` row by row, then all biases.
        weights, biases: how many numbers each layer has.
        channels: inputs of the first layer.

    Returns:
        logits `(B, biases[-1], *spatial)`.

    Raises:
        ValueError: the number of parameters is not the sum of both.
    """
    if parameters.shape[1] != sum(weights) + sum(biases):
        raise ValueError(f"{sum(weights) + sum(biases)} parameters per case are needed, got {parameters.shape[1]}")
    parts = parameters.split([*weights, *biases], dim=1)
    x = features.flatten(2)
    inputs = channels
    for layer, (weight, bias) in enumerate(zip(parts[: len(weights)], parts[len(weights) :], strict=True)):
        outputs = bias.shape[1]
        x = torch.baddbmm(bias[..., None], weight.view(-1, outputs, inputs), x)
        x = torch.relu(x) if layer < len(weights) - 1 else x
        inputs = outputs
    return x.view(len(x), -1, *features.shape[2:])
