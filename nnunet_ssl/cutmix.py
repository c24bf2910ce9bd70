"""CutMix with several boxes: parts of one image in another.

French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC 2020, arXiv:1906.01916, in
the form of charlesCXK/TorchSemiSeg (`exp.voc/voc8.res50v3+.CPS+CutMix/mask_gen.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def box_masks(
    count: int,
    shape: Sequence[int],
    share: tuple[float, float] = (0.25, 0.5),
    num_boxes: int = 3,
    random: np.random.RandomState | np.random.Generator | None = None,
) -> np.ndarray:
    """Masks that are 1 but 0 inside boxes; where an even number of boxes overlap, 1 again.

    Each of the n boxes of a mask has the share p/n of the image, p uniform in `share`. With d axes and a random point
    (e_1, ..., e_d) of the simplex (sum 1; two axes: e_1 uniform, e_2 = 1 - e_1), its side along axis i is
    `round(n^(-1/d) p^(e_i) N_i)` voxels, and its position is uniform among those within the image.

    Two axes: the official generator, number by number. More axes: the same construction.

    Args:
        count: number of masks B.
        shape: spatial size (N_1, ..., N_d).
        share: smallest and largest p, 0 < p <= 1.
        num_boxes: n.
        random: source of random numbers; numpy's global one if None.

    Returns:
        `(B, 1, *shape)` float32.

    Raises:
        ValueError: `share` or `num_boxes` out of range.
    """
    if not 0 < share[0] <= share[1] <= 1 or num_boxes < 1:
        raise ValueError(f"share must be within (0, 1], num_boxes at least 1; got {share} and {num_boxes}")
    random = np.random if random is None else random
    axes, sizes = len(shape), np.array(shape)
    p = random.uniform(*share, size=(count, num_boxes))
    cuts = np.sort(random.uniform(0.0, 1.0, size=(count, num_boxes, axes - 1)), axis=-1)
    exponents = np.diff(cuts, axis=-1, prepend=0.0, append=1.0)
    sides = np.exp(exponents * np.log(p)[..., None]) * num_boxes ** (-1 / axes)
    sides = np.round(sides * sizes)
    starts = np.round((sizes - sides) * random.uniform(0.0, 1.0, size=sides.shape))
    masks = np.ones((count, 1, *shape), dtype=np.float32)
    for mask, boxes in zip(masks, zip(starts.astype(int), (starts + sides).astype(int), strict=True), strict=True):
        for start, end in zip(*boxes, strict=True):
            box = (0, *map(slice, start, end))
            mask[box] = 1 - mask[box]
    return masks


def cutmix(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """`(1 - m) inside + m outside` of images, logits or bool masks: `inside` where the boxes are.

    Chosen, not multiplied: a NaN or infinity on the side that is not taken does not reach the result.

    Args:
        inside, outside: `(B, C, *spatial)`.
        mask: m, `(B, 1, *spatial)` of zeros and ones.

    Raises:
        ValueError: shapes do not fit.
    """
    expected = (inside.shape[0], 1, *inside.shape[2:])
    if inside.shape != outside.shape or tuple(mask.shape) != expected:
        raise ValueError(
            f"need two tensors of one shape and a mask {expected}, got {tuple(inside.shape)}, {tuple(outside.shape)} and "
            f"{tuple(mask.shape)}"
        )
    return outside.where(mask > 0, inside)
