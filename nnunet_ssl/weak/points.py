"""Points and other seeds made from masks.

| rule | source |
|---|---|
| `center_points`, `points_around` | PA-Seg, Zhai et al., IEEE TMI 2023: a point in the object, one beyond each side |
| `extreme_points` | the outermost voxels along every axis |
| `centroid_disk`, `random_disk`, `eroded_seed` | Kervadec et al., MedIA 2019, LIVIAETS/SizeLoss_WSS `gen_weak.py` |

A point is a voxel index, an array `(number, axes)`. Masks have any number of axes; `spacing` is in mm per axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage
from skimage.draw import disk

from nnunet_ssl.weak.strokes import innermost_pixel

EROSIONS = 10  # SizeLoss_WSS


def components(mask: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """`(box, mask within the box)` of every component; voxels that touch at a corner belong together."""
    parts, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        yield box, parts[box] == number


def center_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Per component the voxel farthest (mm) from its surface; of several, the one closest to the centroid."""
    points = []
    for box, part in components(mask):
        depth = ndimage.distance_transform_edt(np.pad(part, 1), sampling=spacing)
        depth = depth[(slice(1, -1),) * mask.ndim]
        deepest = np.argwhere(np.isclose(depth, depth.max()))
        points.append(_closest(deepest, ndimage.center_of_mass(part), spacing) + _start(box))
    return _stack(points, mask.ndim)


def extreme_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Per component and axis the first and the last voxel; of several, the one closest (mm) to the centroid.

    An axis of one voxel has no extremes. A voxel that is extreme along two axes is listed twice.
    """
    points = []
    for box, part in components(mask):
        voxels, centroid = np.argwhere(part), ndimage.center_of_mass(part)
        for axis in (axis for axis in range(mask.ndim) if mask.shape[axis] > 1):
            for end in (voxels[:, axis].min(), voxels[:, axis].max()):
                points.append(_closest(voxels[voxels[:, axis] == end], centroid, spacing) + _start(box))
    return _stack(points, mask.ndim)


def points_around(mask: np.ndarray, spacing: Sequence[float], margin: float) -> np.ndarray:
    """Per component one point beyond each face of its box, opposite the middle, at `margin` mm but at least one voxel.

    Points outside the image are left out; whether a point lies in another object is not looked at.
    """
    points = []
    for box, _ in components(mask):
        middle = np.array([(side.start + side.stop - 1) // 2 for side in box])
        for axis, side in enumerate(box):
            distance = max(1, round(margin / spacing[axis]))
            for index in (side.start - distance, side.stop - 1 + distance):
                if 0 <= index < mask.shape[axis]:
                    point = middle.copy()
                    point[axis] = index
                    points.append(point)
    return _stack(points, mask.ndim)


def random_points(mask: np.ndarray, number: int, rng: np.random.RandomState) -> np.ndarray:
    """`number` different voxels of the mask, or all of them if there are fewer."""
    voxels = np.flatnonzero(mask)  # of a whole background: the indices along all axes would need three times the memory
    drawn = voxels[rng.permutation(len(voxels))[:number]]
    return np.stack(np.unravel_index(drawn, mask.shape), axis=-1)


def balls(points: np.ndarray, radius: int, mask: np.ndarray) -> np.ndarray:
    """The voxels of the mask within `radius` voxels of one of the points that lie in it; radius 0 is these points themselves."""
    marked = np.zeros_like(mask)
    reach = [min(radius, side - 1) for side in mask.shape]  # a large radius reaches beyond flat images
    ball = sum(axis**2 for axis in np.ogrid[tuple(slice(-r, r + 1) for r in reach)]) <= radius**2
    for point in points[mask[tuple(points.T)]]:
        of_image, of_ball = [], []
        for at, r, side in zip(point, reach, mask.shape, strict=True):
            first, end = max(0, at - r), min(side, at + r + 1)
            of_image.append(slice(first, end))
            of_ball.append(slice(first - at + r, end - at + r))
        marked[tuple(of_image)] |= ball[tuple(of_ball)]
    return marked & mask


def centroid_disk(mask: np.ndarray, width: int, if_outside: str = "innermost") -> np.ndarray:
    """The part of the 2D mask in a disk, `2 * (width // 2) + 1` pixels wide, at its centroid (rounded down).

    Args:
        if_outside: what a mask gets that the disk misses, such as a ring. "innermost": the pixel farthest from its outline.
            "whole": all of it, as in the released code.
    """
    if not mask.any():
        return mask
    stroke = _disk(tuple(int(x) for x in ndimage.center_of_mass(mask)), width, mask.shape) & mask
    if stroke.any():
        return stroke
    return {"innermost": innermost_pixel(mask), "whole": mask}[if_outside]


def random_disk(mask: np.ndarray, width: int, rng: np.random.RandomState) -> np.ndarray:
    """The part of the 2D mask in a disk, `2 * (width // 2) + 1` pixels wide, at a random pixel of it."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    index = rng.randint(len(rows))
    return _disk((rows[index], columns[index]), width, mask.shape) & mask


def eroded_seed(mask: np.ndarray) -> np.ndarray:
    """The 2D mask after as many erosions (3x3, at most `EROSIONS`) as leave something of it; the mask itself if one does not."""
    seed = mask
    for _ in range(EROSIONS):
        smaller = ndimage.binary_erosion(seed, ndimage.generate_binary_structure(2, 2))
        if not smaller.any():
            break
        seed = smaller
    return seed


def _disk(center: Sequence[int], width: int, shape: Sequence[int]) -> np.ndarray:
    filled = np.zeros(shape, dtype=bool)
    filled[disk(center, width // 2 + 0.5, shape=tuple(shape))] = True
    return filled


def _closest(voxels: np.ndarray, center: Sequence[float], spacing: Sequence[float]) -> np.ndarray:
    return voxels[np.argmin((((voxels - np.asarray(center)) * spacing) ** 2).sum(axis=1))]


def _start(box: Sequence[slice]) -> np.ndarray:
    return np.array([side.start for side in box])


def _stack(points: list[np.ndarray], axes: int) -> np.ndarray:
    return np.stack(points) if points else np.zeros((0, axes), dtype=int)
