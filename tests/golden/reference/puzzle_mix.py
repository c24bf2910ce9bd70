"""Terms of PuzzleMix on a grid of blocks: what a graph cut would weigh, and the transport of salient blocks.

Kim, Choo, Song, "Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup", ICML 2020, arXiv:2009.06962, in the form
of BWGZK/CycleMix (`mixup.py`). The mask itself is the result of a graph cut there, which is not part of this module; the trainer
draws its masks (`nnunet_ssl.patches.mixing.draw_block_mask`).

A grid has the same number of blocks per axis as its mask, `(B, 1, *blocks)`; the image extent is a multiple of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _block_size(shape: Sequence[int], blocks: Sequence[int]) -> list[int]:
    if len(shape) != len(blocks) or any(n % b for n, b in zip(shape, blocks)):
        raise ValueError(f"an image of {tuple(shape)} voxels cannot be divided into {tuple(blocks)} blocks")
    return [n // b for n, b in zip(shape, blocks)]


def to_blocks(image: Tensor, blocks: Sequence[int]) -> Tensor:
    """`(B, C, *spatial)` as `(B, C, number of blocks, voxels of a block)`, both in row-major order.

    Raises:
        ValueError: an axis is not a multiple of its number of blocks.
    """
    size = _block_size(image.shape[2:], blocks)
    parts = image.reshape(*image.shape[:2], *(n for pair in zip(blocks, size) for n in pair))
    axes = len(size)
    order = [0, 1, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2)]
    return parts.permute(order).flatten(2 + axes).flatten(2, 1 + axes)


def from_blocks(parts: Tensor, shape: Sequence[int], blocks: Sequence[int]) -> Tensor:
    """The inverse of `to_blocks`: an image `(B, C, *shape)`."""
    size, axes = _block_size(shape, blocks), len(shape)
    image = parts.reshape(*parts.shape[:2], *blocks, *size)
    order = [0, 1, *(n for i in range(axes) for n in (2 + i, 2 + axes + i))]
    return image.permute(order).reshape(*parts.shape[:2], *shape)


def block_saliency(saliency: Tensor, blocks: Sequence[int]) -> Tensor:
    """Share of each block in the saliency of its image: `(B, 1, *blocks)`, sums to 1 over the blocks.

    Args:
        saliency: not negative, `(B, 1, *spatial)`.
    """
    means = to_blocks(saliency, blocks).mean(-1)
    return (means / means.sum(-1, keepdim=True)).reshape(*saliency.shape[:2], *blocks)


def transport_cost(blocks: Sequence[int]) -> Tensor:
    """Squared distance of every two blocks, in units of the squared length of the longest axis: `(N, N)` float32."""
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in blocks), indexing="ij"), -1).flatten(0, -2)
    distance = (places[:, None] - places[None]).float().square().sum(-1)
    return distance / max(1, max(blocks) - 1) ** 2


def transport_plan(mask: Tensor, saliency: Tensor, eps: float) -> Tensor:
    """Which block of an image goes where, so that salient blocks come to lie inside the mask.

    Minimizes `eps * cost_ij - saliency_i z_j` by auction: each block i takes its cheapest place j, of several that want
    the same place the cheapest stays, the others pay 1 more for it in the next round. As many rounds as the longest axis has
    blocks, as in the official code; a place outside of the mask may remain empty.

    Args:
        mask: `(B, 1, *blocks)`; z is 1 where it is positive.
        saliency: share of each block, `(B, 1, *blocks)`.
        eps: price of a move; official 0.8.

    Returns:
        `(B, N, N)` of 0 and 1: block i goes to place j.
    """
    blocks = mask.shape[2:]
    inside = (mask > 0).flatten(1).to(saliency.dtype)
    cost = eps * transport_cost(blocks).to(saliency) - saliency.flatten(1)[:, :, None] * inside[:, None, :]
    for _ in range(max(blocks)):
        wanted = torch.zeros_like(cost).scatter_(-1, cost.argmin(-1, keepdim=True), 1)
        cheapest = (wanted * cost).argmin(-2, keepdim=True)
        kept = torch.zeros_like(cost).scatter_(-2, cheapest, 1) * wanted
        cost = cost + (1 - kept) * wanted
    return kept


def transport_blocks(image: Tensor, plan: Tensor, blocks: Sequence[int]) -> Tensor:
    """The image `(B, C, *spatial)` with its blocks moved by the plan `(B, N, N)`; places that get none are 0."""
    moved = torch.einsum("bij,bciv->bcjv", plan.to(image.dtype), to_blocks(image, blocks))
    return from_blocks(moved, image.shape[2:], blocks)


def boundary_differences(first: Tensor, second: Tensor, blocks: Sequence[int], cell: int) -> list[Tensor]:
    """How much the images differ across each border of two blocks, if one has `first` and the next has `second`.

    Images are averaged over cells of `cell` voxels per axis; the difference is the mean absolute one of the two cells at
    the border, over channels and along it. The data-dependent smoothness term of PuzzleMix.

    Args:
        first, second: `(B, C, *spatial)`.
        cell: voxels, divides the size of a block.

    Returns:
        per axis `(B, *blocks)` with one block less along this axis.

    Raises:
        ValueError: blocks or cells do not divide the image.
    """
    shape = first.shape[2:]
    if any(size % cell for size in _block_size(shape, blocks)):
        raise ValueError(f"cells of {cell} voxels do not divide blocks of {_block_size(shape, blocks)}")
    grid = [n // cell for n in shape]
    a, b = (to_blocks(x, grid).mean(-1).reshape(*x.shape[:2], *grid) for x in (first, second))
    per_block = _block_size(grid, blocks)
    differences = []
    for axis, (cells, count) in enumerate(zip(per_block, blocks), start=2):
        bordering = [count - 1 if i == axis else n for i, n in enumerate(blocks, start=2)]
        if count == 1:
            differences.append(a.new_zeros(len(a), *bordering))
            continue
        last = torch.arange(cells - 1, (count - 1) * cells, cells, device=a.device)
        border = (a.index_select(axis, last) - b.index_select(axis, last + 1)).abs().mean(1, keepdim=True)
        differences.append(to_blocks(border, bordering).mean(-1).reshape(len(border), *bordering))
    return differences
