"""Draws of mixed images, for files that hold a draw and what came of it, but no seed."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.patches.mixing import blend


def confirmed_shares(drawn: Tensor, mixed: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The drawn shares of `second`, `(B, 1, *[1])`, where they explain the mix of the images; NaN where they do not.

    Least squares would find them without the draw, but not to a relative 1e-4: Beta(0.2, 0.2) gives shares of 1e-7.
    """
    error = (blend(second, first, drawn) - mixed).abs().flatten(1).amax(1)
    explained = error <= 1e-5 * mixed.abs().flatten(1).amax(1)
    return torch.where(explained.view(-1, *[1] * (drawn.ndim - 1)), drawn, torch.nan)
