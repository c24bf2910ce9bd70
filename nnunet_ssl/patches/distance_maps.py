"""Signed distance maps of segmentations, normalized to [-1, 1]. They run on the CPU: in the workers of the loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor


def _range_to_one(distance: np.ndarray) -> np.ndarray:
    low, high = distance.min(), distance.max()
    return (distance - low) / (high - low)


def signed_distance_map(mask: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Level set of one object: negative inside, positive outside, 0 on the voxels of the object at its boundary.

        phi = N(d_out) - N(d_in),    N(d) = (d - min d) / (max d - min d)

    d_out: distance of a voxel outside to the object (0 inside), d_in: distance of a voxel inside to the background (0
    outside), Euclidean; min and max over the patch. Voxels of the object with a face neighbor outside it are set to 0.
    HiLab-git/DTC, `code/utils/util.py:compute_sdf`. A mask that fills the patch is 0/0 = NaN there; here it is 0, as the
    empty mask is in both.

    Args:
        mask: `(*spatial)`, 2D or 3D, nonzero inside.
        spacing: edge lengths of a voxel; None for distances in voxels, as in the official code.

    Returns:
        `(*spatial)` float32 in [-1, 1]; 0 everywhere for an empty mask and for one that fills the patch.
    """
    inside = np.asarray(mask) != 0
    if not inside.any() or inside.all():
        return np.zeros(inside.shape, np.float32)
    phi = _range_to_one(distance_transform_edt(~inside, spacing)) - _range_to_one(
        distance_transform_edt(inside, spacing)
    )
    phi[inside & ~binary_erosion(inside, border_value=1)] = 0
    return phi.astype(np.float32)


def signed_distance_maps(masks: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """`signed_distance_map` of every sample and channel: masks `(B, K, *spatial)` on the CPU, result float32, same shape."""
    flat = masks.reshape(-1, *masks.shape[2:]).numpy()
    maps = np.stack([signed_distance_map(mask, spacing) for mask in flat])
    return torch.from_numpy(maps).reshape(masks.shape)


def has_boundary(maps: Tensor) -> Tensor:
    """Which maps `(B, K, *spatial)` are of an object that neither is absent nor fills the patch: bool `(B, K, 1, ...)`.

    The map of any other mask is 0 everywhere, which as a target would read "boundary everywhere".
    """
    found = (maps != 0).flatten(2).any(dim=2)
    return found.reshape(*found.shape, *[1] * (maps.ndim - 2))


@dataclass(frozen=True)
class LevelSetTargets:
    """Turns nnU-Net's target of labeled patches into signed distance maps; a function for the workers of the loader.

    Attributes:
        num_objects: foreground classes (labels 1, 2, ...) or regions.
        regions: the target has one channel per region (and with an ignore label one more, last), else one with class labels.
        spacing: see `signed_distance_map`.
        ignore_label: of class labels; None without.

    The maps of a sample with ignored voxels are 0, which `has_boundary` drops: an object may go on where nothing is annotated, and
    of scribbles the distances would be those to the strokes. Voxels of any other value (padding) are background of every object.
    """

    num_objects: int
    regions: bool
    spacing: tuple[float, ...] | None = None
    ignore_label: int | None = None

    def __call__(self, target: Tensor) -> dict[str, Tensor]:
        """`level_set`, float32 `(L, num_objects, *spatial)`, of a target `(L, 1 or regions, *spatial)` at full resolution."""
        if self.regions:
            masks, ignored = target[:, : self.num_objects] > 0, target[:, self.num_objects :] > 0
        else:
            masks = torch.cat([target == label for label in range(1, self.num_objects + 1)], dim=1)
            ignored = target == self.ignore_label if self.ignore_label is not None else target[:, :0] > 0
        masks &= ~ignored.flatten(1).any(1).view(-1, *[1] * (target.ndim - 1))
        return {"level_set": signed_distance_maps(masks, self.spacing)}
