"""Boxes from corners, and boxes filled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rows_from_corners(corners: Tensor) -> Tensor:
    """Rows of `(n, 6)` boxes `[item, channel, x first, y first, x last, y last]` of images `(y, x)`, as in wsis-boundingbox."""
    item, channel, x, y, last_x, last_y = corners.long().unbind(1)
    return torch.stack((item, channel, y, x, last_y + 1, last_x + 1), 1)


def fill_boxes(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Bool of `shape` `(B, C, *spatial)`, True inside the boxes."""
    filled = torch.zeros(tuple(shape), dtype=torch.bool)
    for item, channel, *box in rows.tolist():
        d = len(box) // 2
        filled[(item, channel, *(slice(a, b) for a, b in zip(box[:d], box[d:])))] = True
    return filled
