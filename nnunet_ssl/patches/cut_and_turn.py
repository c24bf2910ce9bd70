"""A second pass of a patch with a hole in it and rotated, as CycleMix and ShapePU have it.

Official code: BWGZK/CycleMix and BWGZK/ShapePU (`Cutout`, `rotate`, `flip` and their inverses). Two things are as the papers intend
them: what is cut out has no label (ShapePU's code makes it background), and the inverse undoes the last operation first. Rotations
are by multiples of 90 degrees, so that the way back is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.patches.mixing import box_size, copy_paste, resize_nearest
from nnunet_ssl.patches.turns import quarter_turns_fit, turn_and_flip, undo_turn_and_flip

Turn = tuple[int, list[int]]  # rotations by 90 degrees, flipped axes


def hole_size(shape: Sequence[int], share: float) -> list[int]:
    """`box_size`, but at least 2 voxels along each axis: of a side of 1 nothing is left when `cutout_masks` halves it.

    Args:
        shape: spatial extent of the patch, voxels.
        share: of the patch per axis; 0: no hole.
    """
    return [max(side, 2) if share else 0 for side in box_size(shape, share)]


def draw_turn(spacing: Sequence[float], shape: Sequence[int], random=np.random) -> Turn:
    """A rotation and a flip in the plane of the last two axes, all of them equally probable.

    Args:
        spacing: mm per axis; where it, or the shape, differs between the two axes there are rotations by 180 degrees only.
        shape: spatial extent of the patch, voxels.
        random: `numpy.random` or a `numpy.random.RandomState`.
    """
    quarter_turns = int(random.randint(4)) if quarter_turns_fit(spacing, shape) else 2 * int(random.randint(2))
    return quarter_turns, [axis for axis in (-2, -1) if random.randint(2)]


def cut_and_turned_pass(
    network: Callable[[Tensor], list[Tensor]],
    images: Tensor,
    target: Tensor,
    kept: Tensor,
    turn: Turn,
    ignore_label: int,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The network's logits of the images with holes in them, rotated.

    Args:
        network: gives logits, one `(B, C, *spatial)` per scale, highest resolution first.
        images: `(B, C, *spatial)`; 0 where they are cut (the mean of a z-scored image).
        target: class indices `(B, 1, *spatial)`; becomes `ignore_label` there.
        kept: `(B, 1, *spatial)` bool, False in the holes.
        turn: as `draw_turn` gives it, the same for all images.

    Returns:
        logits of the rotated images, one per scale; the target for each scale; the logits at full resolution, rotated back.
    """
    cut = copy_paste(images, torch.zeros_like(images), kept)
    labels = turn_and_flip(copy_paste(target, torch.full_like(target, ignore_label), kept), *turn)
    scales = network(turn_and_flip(cut, *turn))
    return scales, [resize_nearest(labels, h.shape[2:]) for h in scales], undo_turn_and_flip(scales[0], *turn)
