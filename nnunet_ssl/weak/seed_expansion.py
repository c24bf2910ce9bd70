"""Labels grown from a few annotated voxels (scribbles, points) over the voxels that the image itself ties to them.

Images are `(channels, *spatial)`, seeds `(*spatial)` of integers with one value for "not annotated", both 2D or 3D numpy arrays.
Axes and spacing are in the order of the arrays, spacing in mm.

* Random walker: L. Grady, "Random Walks for Image Segmentation", IEEE TPAMI 2006; scikit-image's, in the form of
  HiLab-git/WSL4MIS.
* Geodesic distance: P. J. Toivanen, "New geodesic distance transforms for gray-scale images", Pattern Recognition Letters 1996,
  with the step cost and the scan of taigw/GeodisTK, which HiLab-git/PA-Seg (Zhai et al., IEEE TMI 2023, arXiv:2208.05669)
  expands points with.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.exposure import rescale_intensity
from skimage.segmentation import random_walker

from nnunet_ssl.patches.intensity import rescale_to_unit

_NO_CONTRAST = 1e-5  # GeodisTK: keeps the speed finite between voxels of equal intensity
# What a voxel looks at while it is scanned forward, as (plane, row, column) offsets; backward: the opposite ones. GeodisTK's 3D
# scan goes by planes, but its half of the 26 neighbors is that of a scan by rows, so part of it is not up to date when it is read.
# This delays convergence; the distance that it converges to is the same.
_FORWARD = tuple(o for o in itertools.product((-1, 0, 1), repeat=3) if (o[1], o[2], o[0]) < (0, 0, 0) and any(o[:2]))
_HERE = (0, 0, 0)
_ALONG = (0, 0, -1)  # the one of them within the line that is being scanned


def _check(image: np.ndarray, seeds: np.ndarray) -> None:
    if seeds.ndim not in (2, 3) or image.shape[1:] != seeds.shape:
        raise ValueError(
            f"image must be (channels, *spatial) and seeds (*spatial), 2D or 3D; got {image.shape} and {seeds.shape}"
        )


# ------------------------------------------------------------------------------------------------------- random walker


def random_walker_labels(
    image: np.ndarray,
    seeds: np.ndarray,
    unannotated: int,
    *,
    beta: float = 100.0,
    margin: float = 0.35,
    mode: str = "cg_j",
    threshold: float = 0.0,
    required: Sequence[int] = (),
) -> np.ndarray:
    """The class whose seeds a random walker from the voxel reaches first with the highest probability.

    The walker prefers steps between equal intensities: the weight of a step is `exp(-beta |I_p - I_q|^2 / (10 std I))`.

    Args:
        image: I, `(channels, *spatial)`, every channel in [0, 1].
        seeds: `(*spatial)`, integers.
        unannotated: the value of voxels without annotation.
        beta: how hard an edge is to cross; WSL4MIS 100.
        margin: I is mapped linearly from [-margin, 1 + margin] to [-1, 1] first; WSL4MIS 0.35.
        mode: scikit-image's solver: "bf" (exact, for slices; WSL4MIS), "cg_j" (conjugate gradients, for volumes).
        threshold: a class is given where its probability is above this; 0: everywhere, as WSL4MIS does.
        required: WSL4MIS' rule: if one of these classes has no seed, the result is 0, background, everywhere. Empty: the classes
            that are there are expanded.

    Returns:
        `(*spatial)` of the seeds' type. Seeds keep their value. With seeds of one class only nothing is expanded: the walker would
        reach them from everywhere with probability 1, which says nothing. Nor in an image of one intensity.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(image, seeds)
    annotated = seeds != unannotated
    classes = np.unique(seeds[annotated])
    if not set(required) <= set(classes.tolist()):
        return np.zeros_like(seeds)
    if len(classes) < 2 or annotated.all() or image.std() == 0:
        return seeds.copy()
    markers = np.where(annotated, 1 + np.searchsorted(classes, seeds), 0)
    image = rescale_intensity(image, in_range=(-margin, 1 + margin), out_range=(-1, 1))
    # float32, which NumPy 1 keeps, loses scikit-image's smallest weight of a step, 1e-10: noise where strong edges enclose voxels
    image = image.astype(np.float64)
    probabilities = random_walker(
        np.moveaxis(image, 0, -1), markers, beta=beta, mode=mode, return_full_prob=True, channel_axis=-1
    )
    labels = classes[probabilities.argmax(0)].astype(seeds.dtype)
    labels[probabilities.max(0) <= threshold] = unannotated
    return np.where(annotated, seeds, labels)


# ---------------------------------------------------------------------------------------------------- geodesic distance


def geodesic_distance(
    image: np.ndarray,
    seeds: np.ndarray,
    spacing: Sequence[float],
    *,
    weight: float = 0.5,
    iterations: int = 4,
) -> np.ndarray:
    """Length of the shortest path to a seed, where a step is short between equal intensities.

        step p -> q (26 neighbors, 8 in 2D):  s_pq / (1 - weight + weight / (|I_p - I_q| + 1e-5)),    s_pq: its length in mm

    weight 0 is the distance in mm along steps, weight 1 the sum of the intensity changes along the path. Every iteration is a scan
    forward and one backward through the volume; paths that turn often need several.

    The voxels of a line depend on each other in one direction only, so a line is a cumulative minimum, and the lines of a
    diagonal (plane + row constant) do not wait for each other.

    Args:
        image: I, `(channels, *spatial)`; differences of several channels are Euclidean.
        seeds: `(*spatial)` bool, at least one voxel.
        spacing: mm per axis.
        weight: lambda of GeodisTK, in [0, 1].
        iterations: GeodisTK 4.

    Returns:
        `(*spatial)` float64, 0 at the seeds.

    Raises:
        ValueError: shapes do not fit, there is no seed, weight or iterations out of range.
    """
    _check(image, seeds)
    if len(spacing) != seeds.ndim or not 0 <= weight <= 1 or iterations < 1:
        raise ValueError(
            f"spacing needs {seeds.ndim} numbers, weight must be in [0, 1], iterations at least 1; got {tuple(spacing)}, "
            f"{weight}, {iterations}"
        )
    if not seeds.any():
        raise ValueError("there is no seed to measure the distance from")
    flat = (1,) * (3 - seeds.ndim)
    shape, spacing = flat + seeds.shape, (*map(float, flat), *spacing)
    # a border of infinitely distant voxels stands for "outside"
    distance = np.full([extent + 2 for extent in shape], np.inf)
    distance[1:-1, 1:-1, 1:-1][seeds.reshape(shape)] = 0
    costs = _step_costs(image.reshape(-1, *shape), spacing, weight)
    for _ in range(iterations):
        _scan(distance, costs, backward=False)
        _scan(distance, costs, backward=True)
    return distance[1:-1, 1:-1, 1:-1].reshape(seeds.shape)


def _step_costs(image: np.ndarray, spacing: Sequence[float], weight: float) -> dict[tuple[int, int, int], np.ndarray]:
    """Offset o of `_FORWARD` -> cost of the step between each voxel v and v + o, with the border of one voxel."""
    image = np.pad(image.astype(np.float32), ((0, 0), *((1, 1),) * 3))
    costs = {}
    # the lines above and below a single plane are border
    for offset in [o for o in (*_FORWARD, _ALONG) if image.shape[1] > 3 or o[0] == 0]:
        # what is rolled in at the ends is border, from which no finite distance comes
        change = np.roll(image, [-step for step in offset], (1, 2, 3)) - image
        change = np.abs(change[0]) if len(change) == 1 else np.sqrt((change**2).sum(0))
        length = np.sqrt(sum((step * mm) ** 2 for step, mm in zip(offset, spacing)))
        costs[offset] = (length / (1 - weight + weight / (change + _NO_CONTRAST))).astype(np.float32)
    return costs


def _scan(distance: np.ndarray, costs: dict[tuple[int, int, int], np.ndarray], backward: bool) -> None:
    """One pass through the (padded) volume; `distance` is changed."""
    planes, rows, columns = (extent - 2 for extent in distance.shape)
    order = slice(None, None, -1) if backward else slice(None)
    # a row per line of voxels: the lines of a diagonal are then equally far apart, and slices of this array
    lines = distance.reshape(-1, columns + 2)[order, order]
    of_lines = {offset: cost.reshape(-1, columns + 2)[order, order] for offset, cost in costs.items()}
    for diagonal in range(2, planes + rows + 1):
        first, last = max(1, diagonal - rows), min(planes, diagonal - 1)
        start, stop = first * (rows + 1) + diagonal, last * (rows + 1) + diagonal + 1
        here = _Diagonal(start, stop, rows, columns)
        best = here.of(lines, _HERE).copy()
        for offset in of_lines.keys() - {_ALONG}:
            # scanned backward, the step to v + o is the step of v + o to v
            step = here.of(of_lines[offset], offset if backward else _HERE)
            np.minimum(best, here.of(lines, offset) + step, out=best)
        # along the line: best_i <- min_{j <= i} (best_j + cost of the steps from j to i)
        along = np.cumsum(here.of(of_lines[_ALONG], _ALONG if backward else _HERE), axis=1, dtype=np.float64)
        here.of(lines, _HERE)[...] = np.minimum(best, np.minimum.accumulate(best - along, axis=1) + along)


@dataclass(frozen=True)
class _Diagonal:
    """The lines of one diagonal in arrays with a row per line, and the same lines moved by an offset."""

    start: int
    stop: int
    rows: int
    columns: int

    def of(self, array: np.ndarray, offset: tuple[int, int, int]) -> np.ndarray:
        by = offset[0] * (self.rows + 2) + offset[1]
        return array[self.start + by : self.stop + by : self.rows + 1, 1 + offset[2] : self.columns + 1 + offset[2]]


def geodesic_labels(
    distances: np.ndarray, classes: Sequence[int], unannotated: int, threshold: float = 0.2
) -> np.ndarray:
    """The class with the smallest distance among those with `d_c < threshold * max d_c`; `unannotated` where there is none.

    Args:
        distances: `(classes, *spatial)`, one map per class.
        classes: the label of each map.
        unannotated: label of voxels that are far from all seeds.
        threshold: share of the class' largest distance; PA-Seg 0.2 (its README).

    Returns:
        `(*spatial)` int64.
    """
    farthest = distances.reshape(len(distances), -1).max(1).reshape(-1, *(1,) * (distances.ndim - 1))
    near = np.where(distances < threshold * farthest, distances, np.inf)
    return np.where(np.isfinite(near.min(0)), np.asarray(classes)[near.argmin(0)], unannotated)


# --------------------------------------------------------------------------------------------------------- whole cases


@dataclass(frozen=True)
class RandomWalker:
    """Expansion of one slice or volume by `random_walker_labels`, with the exact solver for slices."""

    beta: float = 100.0  # WSL4MIS
    threshold: float = 0.9  # probability; the walker's 0.5 would give every voxel a label, as WSL4MIS does

    def __call__(self, image: np.ndarray, seeds: np.ndarray, unannotated: int, spacing: Sequence[float]) -> np.ndarray:
        """`image` in [0, 1]. The graph knows no spacing: all steps to a neighbor are alike, as published."""
        mode = "bf" if seeds.ndim == 2 else "cg_j"
        return random_walker_labels(image, seeds, unannotated, beta=self.beta, mode=mode, threshold=self.threshold)


@dataclass(frozen=True)
class Geodesic:
    """Expansion of one slice or volume by geodesic distances, one map per class.

    PA-Seg takes raw intensities. Here every channel has standard deviation 1, or the scale of the image would decide how much an
    edge counts against a millimeter.
    """

    weight: float = 0.5  # PA-Seg
    threshold: float = 0.2  # PA-Seg (README)
    iterations: int = 4  # PA-Seg

    def __call__(self, image: np.ndarray, seeds: np.ndarray, unannotated: int, spacing: Sequence[float]) -> np.ndarray:
        classes = np.unique(seeds[seeds != unannotated])
        if len(classes) == 0 or (seeds != unannotated).all():
            return seeds.copy()
        std = image.reshape(len(image), -1).std(1).reshape(-1, *(1,) * seeds.ndim)
        image = image / np.where(std > 0, std, 1)
        distances = np.stack(
            [
                geodesic_distance(image, seeds == label, spacing, weight=self.weight, iterations=self.iterations)
                for label in classes
            ]
        )
        labels = geodesic_labels(distances, classes, unannotated, self.threshold)
        return np.where(seeds != unannotated, seeds, labels).astype(seeds.dtype)


def expand_seeds(
    image: np.ndarray,
    seeds: np.ndarray,
    unannotated: int,
    spacing: Sequence[float],
    method: RandomWalker | Geodesic,
    per_slice: bool,
) -> np.ndarray:
    """Expand the seeds of a case. An annotated voxel keeps its label.

    Intensities are brought to [0, 1] first, per channel between the percentiles 0.5 and 99.5 of the whole case.

    Args:
        image: `(channels, *spatial)`, any intensities.
        seeds: `(*spatial)` integers.
        unannotated: the value of voxels without annotation (nnU-Net's ignore label).
        spacing: mm per axis.
        method: how a slice or a volume is expanded.
        per_slice: every slice across the axis of the largest spacing (the first of equals) by itself. A slice without seeds stays
            without labels.

    Returns:
        `(*spatial)` of the seeds' type.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(image, seeds)
    # a voxel that is not a number (outside of a resampled field of view) takes the lowest intensity
    image = np.nan_to_num(image.astype(np.float32), nan=np.nanmin(image))
    image = rescale_to_unit(torch.from_numpy(image)[None])[0].numpy()
    if seeds.ndim == 2:
        return method(image, seeds, unannotated, spacing)
    if not per_slice and min(seeds.shape) > 1:
        return method(image, seeds, unannotated, spacing)
    axis = int(np.argmax(spacing)) if per_slice else int(np.argmin(seeds.shape))
    in_plane = [mm for i, mm in enumerate(spacing) if i != axis]
    slices = zip(np.moveaxis(image, axis + 1, 0), np.moveaxis(seeds, axis, 0))
    return np.stack([method(i, s, unannotated, in_plane) for i, s in slices], axis=axis)
