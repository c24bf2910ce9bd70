"""One prediction of several networks: the mean of their probabilities, as logits.

nnU-Net resamples logits to the image, once per case. So the mean is handed to it as logits: one resampling for any number of
folds, and no logarithm of a rounded 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ssl.predictions.probabilities import in_float32


def mean_as_logits(logits: Iterable[Tensor], activation: str = "softmax") -> Tensor:
    """Logits whose probabilities are the mean of those of `logits`.

        softmax: z = ln mean_i softmax(z_i);   sigmoid: z = ln mean_i s(z_i) - ln mean_i (1 - s(z_i))

    Args:
        logits: `(C, *spatial)` of each network, any precision; consumed one after another.
        activation: "softmax" over the first axis, or "sigmoid" for regions.

    Returns:
        `(C, *spatial)`; those of a single network as they are, else at least float32.

    Raises:
        ValueError: an unknown activation, or no network.
    """
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")
    first, inside, outside, count = None, None, None, 0
    for z in logits:
        count += 1
        if count == 1:
            first = z
            continue
        if count == 2:
            inside, outside = _log_probabilities(first, activation)
            first = None
        log_p, log_q = _log_probabilities(z, activation)
        inside = torch.logaddexp(inside, log_p)
        outside = None if outside is None else torch.logaddexp(outside, log_q)
    if count == 0:
        raise ValueError("there is no prediction to average")
    if first is not None:
        return first
    return inside - math.log(count) if outside is None else inside - outside


def _log_probabilities(z: Tensor, activation: str) -> tuple[Tensor, Tensor | None]:
    """ln p, and with "sigmoid" ln (1 - p)."""
    z = in_float32(z)
    if activation == "softmax":
        return F.log_softmax(z, dim=0), None
    return F.logsigmoid(z), F.logsigmoid(-z)
