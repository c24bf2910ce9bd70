"""Bounding boxes of label maps, and the strips that a tight box has to be crossed in.

A box is `(2, d)` int64: the first voxel along each of the d axes, and the first one behind it. Boxes of a batch are rows
`(n, 2 + 2 d)` int64: item, channel, then the box.

Tight: every line of voxels through the box, along any axis, meets the object. So a strip of w lines, as long as the box, holds at
least w voxels of the object; in 3D a slab of w planes does. Hsu et al., "Weakly Supervised Instance Segmentation using the Bounding
Box Tightness Prior", NeurIPS 2019; Kervadec et al., "Bounding boxes for weakly supervised segmentation: Global constraints get
close to full supervision", MIDL 2020, arXiv:2004.06816.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def bounding_boxes(mask: np.ndarray, components: bool = True) -> np.ndarray:
    """Boxes `(n, 2, d)` of the connected components (voxels that share a corner are neighbors) of a mask `(*spatial)`.

    Args:
        components: False gives one box around everything.
    """
    mask = np.asarray(mask) != 0
    labels = ndimage.label(mask, np.ones((3,) * mask.ndim))[0] if components else mask.astype(np.int8)
    found = [[[s.start for s in box], [s.stop for s in box]] for box in ndimage.find_objects(labels)]
    return np.array(found, dtype=np.int64).reshape(-1, 2, mask.ndim)


def box_strips(
    box: np.ndarray, width: int, axes: Sequence[int] | None = None, short_extent: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Strips of `width` lines side by side along each axis, the last one with the lines that are left.

    Args:
        box: `(2, d)`.
        width: lines (3D: planes) per strip.
        axes: along which strips are made; None: all.
        short_extent: as LIVIAETS/boxes_tightness_prior, where the extent of a box is last minus first voxel: the last strip has
            a line more than its bound says, or, if there is nothing left, the last line is in no strip.

    Returns:
        strips `(n, 2, d)`, which are boxes themselves, and how many voxels of the object each has at least `(n,)`.
    """
    strips, bounds = [], []
    for axis in range(box.shape[1]) if axes is None else axes:
        first, behind = box[:, axis]
        extent = behind - first - short_extent
        full, rest = divmod(int(extent), width)
        edges = [first + i * width for i in range(full + 1)] + ([behind] if rest else [])
        for start, stop in pairwise(edges):
            strip = box.copy()
            strip[:, axis] = start, stop
            strips.append(strip)
        bounds += [width] * full + [rest] * (rest > 0)
    return np.array(strips, dtype=np.int64).reshape(-1, 2, box.shape[1]), np.array(bounds, dtype=np.int64)


def box_rows(item: int, channel: int, boxes: np.ndarray) -> Tensor:
    """Boxes `(n, 2, d)` of one channel of one item as rows `(n, 2 + 2 d)`."""
    rows = np.empty((len(boxes), 2 + 2 * boxes.shape[2]), dtype=np.int64)
    rows[:, 0], rows[:, 1], rows[:, 2:] = item, channel, boxes.reshape(len(boxes), 2 * boxes.shape[2])
    return torch.from_numpy(rows)


def box_volumes(rows: Tensor) -> Tensor:
    """Voxels of each box, `(n,)`; 2D: the area."""
    first, behind = rows[:, 2:].chunk(2, dim=1)
    return (behind - first).prod(1)


def box_sums(p: Tensor, rows: Tensor) -> Tensor:
    """Sum of p inside each box, `(n,)`, from one summed-area table for all boxes; nothing is read back from the device.

    Args:
        p: `(B, C, *spatial)`.
        rows: `(n, 2 + 2 d)`, on the device of p.
    """
    d = p.ndim - 2
    # of differences of large sums little is left in float32; Apple's GPUs have nothing better
    table = p if p.device.type == "mps" else p.double()
    for axis in range(2, p.ndim):
        table = table.cumsum(axis)
    table = torch.nn.functional.pad(table, (1, 0) * d)  # entry v is the sum in front of voxel v
    item, channel, corners = rows[:, 0], rows[:, 1], rows[:, 2:].unflatten(1, (2, d))
    total = table.new_zeros(len(rows))
    for choice in range(2**d):  # which of the corners: bit k says first (0) or behind (1) along axis k
        ends = [choice >> k & 1 for k in range(d)]
        values = table[(item, channel, *(corners[:, end, k] for k, end in enumerate(ends)))]
        total = total + values * (-1) ** (d - sum(ends))
    return total.to(torch.float32)


def _is_rectangle(component: np.ndarray) -> bool:
    """Whether a mask fills its array but for corners, which scaling in the augmentation may take away."""
    filled = component.copy()
    filled[np.ix_(*[(0, -1)] * component.ndim)] = True
    # of two voxels that touch at a corner nothing but corners is missing
    return bool(filled.all()) and component.mean() > 0.5


@dataclass(frozen=True)
class BoxTargets:
    """Turns nnU-Net's target of box labels into boxes and strips; a function for the workers of the loader.

    Box labels have 0 outside all boxes and the ignore label inside, except for seeds, voxels of the boxed object itself. A
    connected component of what is not 0 is one box; it is a rectangle before and after mirroring and scaling, not after
    rotation. With several foreground classes a box belongs to the class of its seeds. A box without seeds, or with
    seeds of several classes (boxes that overlap), then says nothing.

    Attributes:
        num_classes: foreground classes, 1 to num_classes.
        width: lines per strip (voxels).
    """

    num_classes: int
    width: int

    def __call__(self, target: Tensor) -> dict[str, Tensor]:
        """`boxes` that lie in the patch as a whole, `strips` and their `bounds` `(n,)`, of a target `(L, 1, *spatial)`.

        A box that touches the edge of the patch may go on behind it: then only strips that run along the edge, and thus have
        their full length, are kept, and no box. Boxes that touch each other are one component: its strips hold, since every line
        through it meets one of the objects, but its size says nothing, and it is not among `boxes`.
        """
        d = target.ndim - 2
        boxes, strips, bounds = [torch.empty(0, 2 + 2 * d, dtype=torch.int64)], [], [torch.empty(0)]
        for item, labels in enumerate(target[:, 0].numpy()):
            components = ndimage.label(labels != 0, np.ones((3,) * d))[0]
            for number, where in enumerate(ndimage.find_objects(components), start=1):
                component = components[where] == number
                channel = self._class_of(labels[where][component])
                if channel is None:
                    continue
                box = np.array([[s.start for s in where], [s.stop for s in where]])
                whole = [axis for axis in range(d) if box[0, axis] > 0 and box[1, axis] < labels.shape[axis]]
                if len(whole) == d and _is_rectangle(component):
                    boxes.append(box_rows(item, channel, box[None]))
                axes = [axis for axis in range(d) if set(range(d)) - {axis} <= set(whole)]
                found, least = box_strips(box, self.width, axes)
                strips.append(box_rows(item, channel, found))
                bounds.append(torch.from_numpy(least).float())
        return {"boxes": torch.cat(boxes), "strips": torch.cat(boxes[:1] + strips), "bounds": torch.cat(bounds)}

    def _class_of(self, labels: np.ndarray) -> int | None:
        if self.num_classes == 1:
            return 1
        seeds = np.unique(labels[(labels > 0) & (labels <= self.num_classes)])
        return int(seeds[0]) if len(seeds) == 1 else None
