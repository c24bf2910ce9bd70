"""The tightness prior on projections of a box."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ssl.losses.tightness import tightness_loss
from nnunet_ssl.patches.boxes import bounding_boxes, box_rows, box_strips


def projected_tightness(p: Tensor, mask: Tensor, width: int, short_extent: bool = False) -> Tensor:
    """Hinge on the strips of the projections (largest value along an axis) of volumes, summed over axes, strips and items.

    In a projection every line of the box is crossed by the object as in 2D, so strips of lines ask for as much of
    the small projection as slabs do of the volume.

    Args:
        p: foreground probability `(B, *spatial)`, 3D.
        mask: of the shape of p; one box is laid around what is not 0 in each item.
        width, short_extent: see `box_strips`.
    """
    total = p.new_zeros(())
    for volume, of_volume in zip(p, mask):
        for axis in range(volume.ndim):
            boxes = bounding_boxes(of_volume.amax(axis).cpu().numpy(), components=False)
            for box in boxes:
                strips, bounds = box_strips(box, width, short_extent=short_extent)
                total = total + tightness_loss(
                    volume.amax(axis)[None, None],
                    box_rows(0, 0, strips).to(p.device),
                    torch.from_numpy(bounds).to(p.device, torch.float32),
                    reduction="sum",
                )
    return total
