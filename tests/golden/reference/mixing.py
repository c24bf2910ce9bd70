"""Boxes of mixing masks that the official codes have and no trainer draws: one in each cell of a grid, a stripe."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nnunet_ssl.patches.mixing import Box, _start


def draw_grid_of_boxes(
    shape: Sequence[int], ratio: float, cells: int = 3, last: bool = True, random=np.random
) -> list[Box]:
    """`cells` per axis, in each of them one box of `int(extent * ratio / cells)` voxels per axis; the official `random_mask`.

    Arguments and errors are those of `draw_box`; `ratio` is the box's share of its cell.
    """
    cell = [extent // cells for extent in shape]
    size = [int(extent * ratio / cells) for extent in shape]
    boxes = []
    for position in itertools.product(range(cells), repeat=len(shape)):
        box = []
        for i, step, length in zip(position, cell, size):
            start = _start(i * step, (i + 1) * step, length, last, random)
            box.append((start, start + length))
        boxes.append(box)
    return boxes


def draw_stripe(
    shape: Sequence[int],
    ratio: float = 4 / 9,
    axis: int = 0,
    extent: int | None = None,
    last: bool = True,
    random=np.random,
) -> Box:
    """A stripe across the image that covers `int(extent * ratio)` voxels of one axis; the official `contact_mask`.

    Args:
        shape: spatial extent of the image, voxels.
        ratio: thickness of the stripe as a share of `extent`; official: 4/9.
        axis: across which the stripe is cut.
        extent: that of `axis` if None. The official code cuts axis 0 with the extent of axis 1, the same for square images.
        last, random: as in `draw_box`.
    """
    extent = shape[axis] if extent is None else extent
    size = int(extent * ratio)
    start = _start(0, extent, size, last, random)
    stripe = [(0, whole) for whole in shape]
    stripe[axis] = (start, start + size)
    return stripe
