"""Quarter turns and flips in the plane of the last two axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def may_turn(spacing: Sequence[float], heads: Sequence[Tensor]) -> bool:
    """Whether a quarter turn keeps sizes and voxels: equal spacing and equal size of all heads along the last two axes.

    Args:
        spacing: of the patch, mm along each axis.
        heads: `(B, C, *spatial)` at all resolutions that are turned.
    """
    return bool(np.isclose(spacing[-1], spacing[-2])) and all(h.shape[-1] == h.shape[-2] for h in heads)


def turn_and_flip(tensor: Tensor, quarter_turns: int, flipped_axes: Sequence[int] = ()) -> Tensor:
    """`tensor` turned by 90 degrees `quarter_turns` times from the second-last axis to the last, then flipped.

    Args:
        tensor: `(..., H, W)`.
        quarter_turns: an odd number exchanges H and W.
        flipped_axes: axes of the turned tensor.
    """
    turned = torch.rot90(tensor, quarter_turns, dims=(-2, -1))
    return torch.flip(turned, list(flipped_axes)) if flipped_axes else turned
