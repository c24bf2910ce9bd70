"""Means over the voxels that count."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_where(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """`sum_i M_i v_i / sum_i M_i`; 0 with a gradient of 0 where no element counts.

    An element that does not count has no influence on the result, even if it is infinite or NaN (its gradient is NaN then).

    Args:
        values: v, `(B, C, *spatial)`.
        mask: M, bool, of a shape that broadcasts to that of the values, such as `(B, 1, *spatial)`; None: all count.

    Raises:
        ValueError: the mask is not bool or does not broadcast to the values.
    """
    if mask is None:
        return values.mean()
    pairs = zip(mask.shape, values.shape)
    if mask.dtype != torch.bool or mask.ndim != values.ndim or any(m not in (1, v) for m, v in pairs):
        raise ValueError(
            f"mask must be bool and broadcast to {tuple(values.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    mask = mask.expand_as(values)
    # the clamp makes an empty mask a mean of 0 without asking the device how many elements count
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
