"""Pairs of images that show the same thing: re-cropped or re-processed copies, and repeat scans of one patient.

Copies with equal voxels are found by their content hash. Here two images are laid over each other, shifted to where they
agree best (copies are often cropped differently), and compared by two Pearson correlations over the voxels they share:

* `correlation` of the smoothed images. A copy comes near 1, but so do different patients where the anatomy is uniform.
* `detail`, the same of the images minus their local mean. Fine structure agrees only for the same patient.

Only pairs whose coarse versions (8 x 8 x 8 values) correlate are laid over each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import fft
from scipy.ndimage import affine_transform, gaussian_filter

COARSE = 8  # values per axis of the version used to find candidates
COARSE_THRESHOLD = 0.7
CANDIDATES_PER_IMAGE = 5
FINE = 32  # voxels per axis, for an image of median extent, of the version laid over each other
LOCAL_MEAN_SIGMA = 2.0  # fine voxels
LEAST_OVERLAP = 0.6  # of the smaller image
VARIANCE_FLOOR = 1e-3  # of the z-scored image; keeps shifts over flat regions from dividing by zero


def normalize(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the z-scored channels `(*spatial)` float32, zero outside the mask, and the mask.

    Args:
        image: `(C, *spatial)`. The mask is nnU-Net's: voxels that are non-zero in some channel, holes filled.
    """
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    mask = create_nonzero_mask(image)
    if not mask.any():
        mask = np.ones(image.shape[1:], bool)
    inside = image[:, mask].astype(np.float32)
    inside = (inside - inside.mean(1, keepdims=True)) / np.maximum(inside.std(1, keepdims=True), 1e-8)
    values = np.zeros(mask.shape, np.float32)
    values[mask] = inside.mean(0)
    return values, mask


def coarse_vector(image: np.ndarray) -> np.ndarray:
    """Z-scored block means of an image `(C, *spatial)`, `(COARSE ** dimensions,)` float32; the mean square is 1."""
    values = normalize(image)[0]
    for axis, size in enumerate(values.shape):
        edges = np.arange(COARSE) * size // COARSE
        # where an axis is shorter than COARSE, edges repeat and reduceat returns the one value there
        counts = np.maximum(np.diff(edges, append=size), 1).reshape(
            [-1 if a == axis else 1 for a in range(values.ndim)]
        )
        values = np.add.reduceat(values, edges, axis=axis) / counts
    values = values.ravel().astype(np.float32)
    return (values - values.mean()) / max(float(values.std()), 1e-8)


def reduce_image(image: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """`normalize`, smoothed and resampled to `shape`: image float32 and mask bool."""
    values, mask = normalize(image)
    return _resample(values, shape), _resample(mask.astype(np.float32), shape) > 0.5


def _resample(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    step = np.array(array.shape) / np.array(shape)
    # half a new voxel of smoothing keeps detail finer than the new grid from folding back
    smooth = gaussian_filter(array, 0.5 * step * (step > 1), mode="nearest")
    return affine_transform(smooth, step, (step - 1) / 2, output_shape=tuple(shape), order=1, mode="nearest")


def candidate_pairs(vectors: np.ndarray, patients: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Pairs to compare closely: each image with the images of other patients that its coarse version agrees with best.

    Args:
        vectors: `(N, values)`, one `coarse_vector` per image.
        patients: patient of each image.

    Returns:
        Pairs (i < j) of different patients, and the number of pairs of one patient whose coarse versions correlate above
        the threshold, which is expected and needs no closer look.
    """
    correlation = vectors @ vectors.T / vectors.shape[1]
    patients = np.asarray(patients)
    same = patients[:, None] == patients[None]
    alike = correlation > COARSE_THRESHOLD
    within = int(np.triu(alike & same, 1).sum())
    pairs = set()
    for i, row in enumerate(np.where(same, -np.inf, correlation)):
        for j in np.argsort(-row)[:CANDIDATES_PER_IMAGE]:
            if row[j] > COARSE_THRESHOLD:
                pairs.add((min(i, int(j)), max(i, int(j))))
    return sorted(pairs), within


def fine_voxel(extents: np.ndarray, spacings: np.ndarray) -> np.ndarray:
    """Size in mm of the voxels in which images are compared, `(dimensions,)`; never finer than the median spacing.

    Args:
        extents, spacings: in mm, `(N, dimensions)`.
    """
    return np.maximum(np.median(extents, 0) / FINE, np.median(spacings, 0))


def fine_shape(shape: Sequence[int], spacing: Sequence[float], voxel: np.ndarray) -> tuple[int, ...]:
    """Voxels of the common size that cover an image of `shape` and `spacing`; at most four times `FINE` per axis."""
    sizes = np.rint(np.array(shape) * np.array(spacing) / voxel).astype(int)
    return tuple(int(size) for size in np.clip(sizes, 1, 4 * FINE))


def best_correlations(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """`correlation` and `detail` of two images on grids of one voxel size, each at the shift where it is largest.

    Masked normalized cross-correlation over all shifts (Padfield, IEEE TIP 2012, eq. 14-15), by Fourier transforms; shifts
    at which the images share less than `LEAST_OVERLAP` of the smaller one are left out.

    Args:
        one, other: image and mask from `reduce_image`.
    """
    masks = [one[1], other[1]]
    if not all(mask.any() for mask in masks):
        return 0.0, 0.0
    smooth = [_z_score(values, mask) for (values, _), mask in zip((one, other), masks)]
    detail = [_z_score(v - _local_mean(v, m), m) for v, m in zip(smooth, masks)]
    return _masked_ncc(smooth, masks), _masked_ncc(detail, masks)


def _z_score(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    inside = values[mask]
    return np.where(mask, (values - inside.mean()) / max(float(inside.std()), 1e-8), 0)


def _local_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weight = gaussian_filter(mask.astype(np.float64), LOCAL_MEAN_SIGMA)
    return gaussian_filter(np.where(mask, values, 0.0), LOCAL_MEAN_SIGMA) / np.maximum(weight, 1e-8)


def _masked_ncc(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    shape = [fft.next_fast_len(a + b - 1, True) for a, b in zip(images[0].shape, images[1].shape)]
    axes = tuple(range(len(shape)))

    def transform(array: np.ndarray) -> np.ndarray:
        return fft.rfftn(array.astype(np.float64), shape, axes=axes)

    def back(product: np.ndarray) -> np.ndarray:
        return fft.irfftn(product, shape, axes=axes)

    f1, s1, m1 = (transform(a) for a in (images[0], images[0] ** 2, masks[0]))
    flipped, mask2 = (np.flip(a) for a in (images[1], masks[1]))
    f2, s2, m2 = (transform(a) for a in (flipped, flipped**2, mask2))
    overlap = np.rint(back(m1 * m2))
    count = np.maximum(overlap, 1)
    sum1, sum2 = back(f1 * m2), back(m1 * f2)
    floor = VARIANCE_FLOOR * count
    variance1 = np.maximum(back(s1 * m2) - sum1**2 / count, floor)
    variance2 = np.maximum(back(m1 * s2) - sum2**2 / count, floor)
    correlation = (back(f1 * f2) - sum1 * sum2 / count) / np.sqrt(variance1 * variance2)
    enough = overlap >= LEAST_OVERLAP * min(int(mask.sum()) for mask in masks)
    return float(np.clip(correlation[enough].max(), -1, 1)) if enough.any() else 0.0


def pairs_of(members: dict[str, list[str]]) -> list[tuple[str, str]]:
    """All pairs of ids that share a key, sorted."""
    return sorted(pair for ids in members.values() for pair in combinations(sorted(ids), 2))
