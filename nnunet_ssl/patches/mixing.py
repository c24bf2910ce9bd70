"""Copy-paste between images: binary masks of boxes, and mixing of images and label maps with them.

A mask `(1 or B, 1, *spatial)` is True where the first image is kept and False where the second one is pasted in. Boxes are drawn on
the host from numpy's generator (nnU-Net's own randomness; its state is in checkpoints) and filled in on the `device` where the mask
is needed, so that nothing waits for a GPU: copying a mask to it would.

Boxes of Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023, and of its code,
DeepMed-Lab-ECNU/BCP (`generate_mask`, `random_mask` and `contact_mask` of ACDC_BCP_train.py, `context_mask` of BCP_utils.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = list[tuple[int, int]]  # (start, stop) per axis, in voxels


def _start(low: int, high: int, size: int, last: bool, random) -> int:
    """Start of a piece of `size` voxels between `low` and `high`; all positions, or all but the last one."""
    if not 0 <= size <= high - low:
        raise ValueError(f"a piece of {size} voxels does not fit into {high - low}")
    positions = high - low - size + 1 if last else high - low - size
    return int(random.randint(low, low + positions)) if positions > 0 else low


def box_size(shape: Sequence[int], ratio: float) -> list[int]:
    """`int(ratio * extent)` voxels per axis; (112, 112, 80) and 2/3 give [74, 74, 53]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    return [int(extent * ratio) for extent in shape]


def draw_box(shape: Sequence[int], size: Sequence[int], last: bool = True, random=np.random) -> Box:
    """A box of `size` voxels at a random place inside `shape`, axes drawn in their order.

    Args:
        shape: spatial extent of the image, voxels.
        size: of the box, voxels, at most `shape`.
        last: False leaves out the last position of every axis, as the official `randint(0, extent - size)` does.
        random: `numpy.random` or a `numpy.random.RandomState`.

    Returns:
        (start, stop) per axis.

    Raises:
        ValueError: the box is larger than the image.
    """
    starts = [_start(0, extent, length, last, random) for extent, length in zip(shape, size, strict=True)]
    return [(start, start + length) for start, length in zip(starts, size)]


def outside_boxes(shape: Sequence[int], boxes: Sequence[Box], device: torch.device | str | None = None) -> Tensor:
    """Mask `(1, 1, *shape)`, False inside any of the boxes."""
    mask = torch.ones((1, 1, *shape), dtype=torch.bool, device=device)
    for box in boxes:
        mask[(..., *(slice(start, stop) for start, stop in box))] = False
    return mask


def outside_one_box(images: Tensor, ratio: float) -> Tensor:
    """Mask `(1, 1, *spatial)` for images `(B, C, *spatial)`: False inside a random box with this share of each axis."""
    shape = images.shape[2:]
    return outside_boxes(shape, [draw_box(shape, box_size(shape, ratio))], images.device)


def box_masks(
    count: int,
    shape: Sequence[int],
    share: tuple[float, float] = (0.25, 0.5),
    num_boxes: int = 3,
    random: np.random.RandomState | np.random.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Masks for CutMix: True, but False inside boxes; where an even number of boxes overlap, True again.

    French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC 2020, arXiv:1906.01916, in
    the form of charlesCXK/TorchSemiSeg (`exp.voc/voc8.res50v3+.CPS+CutMix/mask_gen.py`).

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
        `(B, 1, *shape)` bool.

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
    masks = torch.ones((count, 1, *shape), dtype=torch.bool, device=device)
    for mask, boxes in zip(masks, zip(starts.astype(int), (starts + sides).astype(int), strict=True), strict=True):
        for start, end in zip(*boxes, strict=True):
            mask[(0, *map(slice, start.tolist(), end.tolist()))].logical_not_()
    return masks


def cutout_masks(
    count: int,
    shape: Sequence[int],
    length: Sequence[int] | int,
    random=np.random,
    device: torch.device | str | None = None,
) -> Tensor:
    """Cutout: a mask per image, False in one box around a random voxel; what lies outside of the image is cut off.

    DeVries & Taylor, arXiv:1708.04552, in the form of BWGZK/CycleMix and BWGZK/ShapePU (`Cutout`): the box reaches from
    `v - length // 2` to `v + length // 2`, v uniform, axes drawn in their order.

    Args:
        count: number of masks B.
        shape: spatial extent of the images, voxels.
        length: of the box, voxels; one number or one per axis. Official code: 32 of 212.
        random: `numpy.random` or a `numpy.random.RandomState`.

    Returns:
        `(B, 1, *shape)` bool, True where the image is kept.
    """
    lengths = [length] * len(shape) if isinstance(length, int) else list(length)
    masks = []
    for _ in range(count):
        box = []
        for extent, side in zip(shape, lengths, strict=True):
            center = int(random.randint(extent))
            box.append((max(center - side // 2, 0), min(center + side // 2, extent)))
        masks.append(outside_boxes(shape, [box], device))
    return torch.cat(masks)


def cutmix_sides(shape: Sequence[int], share: float) -> list[int]:
    """`int(N_i sqrt(1 - share))` voxels along each axis: a box that leaves `share` of a 2D image, more of a 3D one.

    Yun et al., "CutMix", ICCV 2019; 3D: ZhenZHAO/AD-MT (`rand_bbox_3d`).
    """
    return [int(extent * np.sqrt(1.0 - share)) for extent in shape]


def centered_box(shape: Sequence[int], sides: Sequence[int], center: Sequence[int]) -> Box:
    """The box from `center - side // 2` to `center + side // 2`, cut off at the image: an odd side loses a voxel, as in CutMix."""
    return [
        (min(max(c - side // 2, 0), extent), min(max(c + side // 2, 0), extent))
        for extent, side, c in zip(shape, sides, center, strict=True)
    ]


def draw_centered_masks(
    count: int, shape: Sequence[int], alpha: float = 4.0, random=np.random, device: torch.device | str | None = None
) -> Tensor:
    """CutMix masks of AD-MT: one share ~ Beta(alpha, alpha) for all, and for each a box around a random voxel.

    Official code: ZhenZHAO/AD-MT (`mixaugs.py`); centers are uniform in `N_i // 8 ... N_i - 1`.

    Args:
        count: number of masks B.
        shape: spatial extent of the images, voxels.
        random: `numpy.random` or a `numpy.random.RandomState`.

    Returns:
        `(B, 1, *shape)` bool, False inside the box.
    """
    sides = cutmix_sides(shape, float(random.beta(alpha, alpha)))
    boxes = [centered_box(shape, sides, [int(random.randint(n // 8, n)) for n in shape]) for _ in range(count)]
    return torch.cat([outside_boxes(shape, [box], device) for box in boxes])


def draw_fitting_box(
    shape: Sequence[int],
    share: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    random=np.random,
) -> Box:
    """A box of a random share of the image, of random shape, that lies inside it: CutMix of UniMatch.

    Yang et al., CVPR 2023; official code: LiheYoung/UniMatch (`obtain_cutmix_box`). With d axes of N_i voxels the side along axis
    i is `int(N_i s^(1/d) e^(l_i))` voxels, sum_i l_i = 0, where each relative side is r times that of the next axis, r drawn for
    each pair. Shape and place are drawn again until the box fits. Differs from the official code: 3D, and images of any shape.

    Args:
        share: smallest and largest s, 0 < s < 1.
        aspect: smallest and largest r.
        random: `numpy.random` or a `numpy.random.RandomState`.

    Returns:
        (start, stop) per axis, in voxels.

    Raises:
        ValueError: shares or aspects out of range.
    """
    if not 0 < share[0] <= share[1] < 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"share must be within (0, 1) and aspect positive, got {share} and {aspect}")
    axes, volume = len(shape), float(np.prod(shape))
    mean_side = volume ** (1 / axes)
    size = random.uniform(*share) * volume
    while True:
        ratios = [random.uniform(*aspect) for _ in range(axes - 1)]
        # l_i - l_(i+1) = ln r_i, with a mean of 0
        exponents = np.cumsum([0.0, *(-np.log(ratios))])
        factors = np.exp(axes * (exponents - exponents.mean()))
        sides = [int((size * f) ** (1 / axes) * (n / mean_side)) for f, n in zip(factors, shape, strict=True)]
        starts = [int(random.randint(0, n)) for n in reversed(shape)][::-1]
        if all(start + side <= n for start, side, n in zip(starts, sides, shape, strict=True)):
            return [(start, start + side) for start, side in zip(starts, sides)]


def draw_occasional_masks(
    count: int,
    shape: Sequence[int],
    probability: float = 0.5,
    share: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    random=np.random,
    coin: Callable[[], float] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """CutMix masks of UniMatch: each has a `draw_fitting_box` with this probability.

    Args:
        count: number of masks B.
        shape: spatial extent of the images, voxels.
        share, aspect, random: as in `draw_fitting_box`.
        coin: uniform numbers in [0, 1) that decide whether there is a box; None: of `random`.

    Returns:
        `(B, 1, *shape)` bool, False inside the box.
    """
    coin = random.uniform if coin is None else coin
    boxes = [[draw_fitting_box(shape, share, aspect, random)] if coin() <= probability else [] for _ in range(count)]
    return torch.cat([outside_boxes(shape, own, device) for own in boxes])


def draw_block_masks(count: int, blocks: Sequence[int], alpha: float = 0.5, random=np.random) -> Tensor:
    """Masks of a grid of blocks: each block comes from the first image with probability lambda ~ Beta(alpha, alpha).

    What CycleMix needs of a mix without the saliency and the graph cut of PuzzleMix: one lambda per call as there
    (`get_lambda` of BWGZK/CycleMix), each block for itself.

    Args:
        count: number of masks B.
        blocks: number of blocks per axis.
        alpha: 0.5 in the official code.
        random: `numpy.random` or a `numpy.random.RandomState`.

    Returns:
        `(B, 1, *blocks)` bool.
    """
    share = random.beta(alpha, alpha)
    return torch.from_numpy(random.uniform(size=(count, 1, *blocks)) < share)


def draw_mix_factors(count: int, axes: int, alpha: float, random=np.random) -> Tensor:
    """Shares lambda ~ Beta(alpha, alpha) of mixup, one per mix, `(count, 1, *[1] * axes)` float32: a mask for `blend`.

    Zhang et al., "mixup", ICLR 2018; Verma et al., ICT, IJCAI 2019: alpha 0.2, with which most shares are near 0 or 1.

    Args:
        axes: number of spatial axes.
        random: `numpy.random` or a `numpy.random.RandomState`.
    """
    return torch.from_numpy(random.beta(alpha, alpha, (count, 1, *[1] * axes))).float()


def blend(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """`M first + (1 - M) second` of images, one-hot labels or probabilities `(B, C, *spatial)`, M in [0, 1].

    The mask `(B or 1, 1, *any spatial)` is resized to the images by nearest neighbor: blocks of equal size for a grid that divides
    them. With M in {0, 1} this is `copy_paste`, but differentiable in both images.

    Raises:
        ValueError: the shapes of the images differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"images of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be mixed")
    mask = resize_nearest(mask, first.shape[2:]).to(first.dtype)
    return mask * first + (1 - mask) * second


def copy_paste(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """`first` where the mask is True, `second` elsewhere: images or label maps `(B, C, *spatial)`, of the type of `first`.

    Raises:
        ValueError: the shapes differ, or the mask's spatial shape does.
    """
    if first.shape != second.shape or first.shape[2:] != mask.shape[2:]:
        raise ValueError(
            f"images of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be mixed with a mask of shape "
            f"{tuple(mask.shape)}"
        )
    return torch.where(mask, first, second.to(first.dtype))


def paste_next(batch: Tensor, outside: Tensor) -> Tensor:
    """Images or label maps `(B, C, *spatial)` where `outside` `(1, 1, *spatial)`, the next ones of the batch elsewhere.

    `outside` may have another resolution, as for the targets of lower scales.
    """
    return copy_paste(batch, batch.roll(-1, 0), resize_nearest(outside, batch.shape[2:]))


def halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of a batch `(B, ...)`, both of `ceil(B / 2)`; of an odd one the first sample is in both."""
    count = (len(batch) + 1) // 2
    return batch[:count], batch.roll(-count, 0)[:count]


def mix_halves(batch: Tensor, mask: Tensor) -> Tensor:
    """CutMix of the two halves of images or label maps `(B, C, *spatial)`: the first one where the mask is True.

    The mask `(1, 1, *any spatial)` is resized to the batch by nearest neighbor.

    Returns:
        `(ceil(B / 2), C, *spatial)`.
    """
    return copy_paste(*halves(batch), resize_nearest(mask, batch.shape[2:]))


def cross_view_labels(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What two networks learn on a mix of the halves a, b of a batch: the other's label of a, their own label of b.

        y_1 = q_2(a) M + q_1(b) (1 - M),    y_2 = q_1(a) M + q_2(b) (1 - M)

    Wu et al., "Cross-View Mutual Learning for Semi-Supervised Medical Image Segmentation", ACM MM 2024; official code:
    SongwuJob/CML (CML_LA_train.py).

    Args:
        first, second: q_1, q_2, the networks' label maps of the batch before it is mixed, `(B, C, *spatial)`.
        mask: M, `(1, 1, *spatial)` bool.

    Returns:
        y_1, y_2, `(ceil(B / 2), C, *spatial)`.
    """
    (first_a, first_b), (second_a, second_b) = halves(first), halves(second)
    return copy_paste(second_a, first_b, mask), copy_paste(first_a, second_b, mask)


def both_directions(mask: Tensor, count: int) -> Tensor:
    """Masks `(count, 1, *spatial)` of a bidirectional mix: `mask` for the first `ceil(count / 2)`, its opposite for the rest."""
    outward = torch.arange(count, device=mask.device).view(-1, *[1] * (mask.ndim - 1)) < (count + 1) // 2
    return mask == outward


def resize_nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Label map or mask `(B, C, *spatial)` at another size, with nnU-Net's own rule for deep supervision (nearest-exact)."""
    if labels.shape[2:] == tuple(size):
        return labels
    return F.interpolate(labels.float(), tuple(size), mode="nearest-exact").to(labels.dtype)
