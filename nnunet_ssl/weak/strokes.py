"""Scribbles drawn by rule into the 2D mask of one class in one slice.

Every function takes a boolean mask `(rows, columns)` and returns the pixels of the stroke, a boolean array of the same shape
within the mask. Lengths are in pixels: the published rules know no spacing.

| rule | source |
|---|---|
| `skeleton_stroke` | Valvano et al., IEEE TMI 2021 (MAAG), gvalvano/multiscale-adversarial-attention-gates |
| `walk_stroke` | the same |
| `cut_stroke` | Luo et al., MICCAI 2022 and Medical Image Analysis 2022 (WORD), HiLab-git/WSL4MIS |
| `bench_stroke` | Gotkowski et al., MICCAI 2025 (ScribbleBench), MIC-DKFZ/ScribbleBench |

Random numbers come from `random.Random` or `numpy.random.RandomState`, whose streams do not change between versions, unlike
those of `numpy.random.Generator`: a data set made today is made again tomorrow. Which of the two a rule takes is that of its
official code, whose draws it then reproduces.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline
from skimage.draw import line
from skimage.measure import find_contours
from skimage.morphology import closing, dilation, disk, skeletonize

SQUARE = ndimage.generate_binary_structure(2, 2)  # 3x3: the pixel and its eight neighbors
_NEIGHBORS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)

CUT_ERODED_ABOVE = 900  # pixels of a class in a slice, from which WSL4MIS erodes before thinning
CUT_MOVED_ABOVE = 1000  # ... and shifts and rotates the stroke
CUT_SHIFT = 6  # pixels
CUT_ANGLE = 15.0  # degrees
CUT_SMALLEST_PART = 15  # pixels of a part of the skeleton that is walked besides the largest

WALK_TRIALS = 4000

BENCH_CONTROL_POINTS = 4
BENCH_CURVE_STEPS = 1000  # ScribbleBench: curve_delta 0.001
BENCH_HALF_THICKNESS = 1  # strokes are 3 pixels wide
BENCH_CONTOUR_DEPTH = (1, 4)  # pixels of the contour inside the outline, besides the half thickness
BENCH_CONTOUR_LENGTH = (0.07, 0.15)  # of the contour


def innermost_pixel(mask: np.ndarray) -> np.ndarray:
    """The pixel of the mask that is farthest from its outline, the first in row-major order of several."""
    stroke = np.zeros_like(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    stroke[np.unravel_index(np.argmax(depth), depth.shape)] = mask.any()
    return stroke


def largest_parts(mask: np.ndarray, number: int | None) -> np.ndarray:
    """The `number` largest components (8-neighborhood) of the mask; all of it for None."""
    if number is None:
        return mask
    parts, found = ndimage.label(mask, SQUARE)
    sizes = np.bincount(parts.ravel(), minlength=found + 1)[1:]
    kept = np.argsort(-sizes, kind="stable")[:number] + 1
    return np.isin(parts, kept)


def paint(strokes: Mapping[int, np.ndarray], unlabeled: int) -> np.ndarray:
    """Label map (uint16, the strokes' shape) with code `c` where `strokes[c]` is set and `unlabeled` elsewhere."""
    shape = next(iter(strokes.values())).shape
    labels = np.full(shape, unlabeled, dtype=np.uint16)
    for code, stroke in strokes.items():
        labels[stroke] = code
    return labels


# --- MAAG -------------------------------------------------------------------------------------------------------------


def skeleton_stroke(mask: np.ndarray) -> np.ndarray:
    """Skeleton, closed and thickened with the cross-shaped 3x3 element. Empty where thinning leaves nothing (2x2 pixels)."""
    return dilation(closing(skeletonize(mask))) & mask


def walk_stroke(
    mask: np.ndarray, rng: np.random.RandomState, fraction: float = 0.1, released_clipping: bool = False
) -> np.ndarray:
    """Random walk over `fraction` of the mask's pixels, smoothed and thinned, then thickened with the cross.

    A step is taken if it stays in the mask and leaves both the row and the column of the pixel before the last one. At
    most `WALK_TRIALS` steps are tried, so that the walk may be shorter.

    Args:
        released_clipping: the released code compares the column with the number of rows, so that in an image wider than
            high a walk that comes to this column jumps to the last one.
    """
    rows, columns = mask.shape
    last_tried_column = (rows if released_clipping else columns) - 1
    pixels = np.argwhere(mask)
    target = int(fraction * len(pixels))
    if target >= len(pixels):
        return mask
    walked = np.zeros_like(mask)
    row, column = pixels[rng.randint(0, len(pixels))]
    walked[row, column] = True
    number, before = 1, None
    for _ in range(WALK_TRIALS):
        if number >= target:
            break
        new_row = min(max(row + 1 - rng.choice(3), 0), rows - 1)
        new_column = max(column + 1 - rng.choice(3), 0)
        if new_column > last_tried_column:
            new_column = columns - 1
        if before is not None and (new_row == before[0] or new_column == before[1]):
            continue
        if mask[new_row, new_column]:
            number += not walked[new_row, new_column]
            walked[new_row, new_column] = True
            before, (row, column) = (row, column), (new_row, new_column)
    return dilation(skeletonize(closing(dilation(walked)))) & mask


# --- WSL4MIS ----------------------------------------------------------------------------------------------------------


def lee_skeleton(mask: np.ndarray) -> np.ndarray:
    """Skeleton of the mask by the method of Lee (skimage)."""
    # old versions of skimage give 0 and 255, where the released code looks for 255 and finds nothing in new ones
    return skeletonize(mask, method="lee") > 0


def eroded_skeleton(mask: np.ndarray, rng: random.Random, erosions: tuple[int, int]) -> np.ndarray:
    """`lee_skeleton` of a mask of more than `CUT_ERODED_ABOVE` pixels after so many erosions (3x3) drawn in this range."""
    if mask.sum() > CUT_ERODED_ABOVE:
        low, high = erosions
        mask = ndimage.binary_erosion(mask, SQUARE, iterations=math.ceil(low + rng.random() * (high - low)))
    return lee_skeleton(mask)


def cut_branches(skeleton: np.ndarray, mask: np.ndarray, rng: random.Random) -> np.ndarray:
    """One random path through each part of a skeleton, 3 pixels wide; moved a little where the mask is large.

    The largest part is walked, then every one of more than `CUT_SMALLEST_PART` pixels, the smallest first (where there are
    several parts, the largest is therefore walked twice, and may keep a second branch). A walk begins at an end of the
    part and takes a random unvisited neighbor until there is none. If it ends beside a fork of the path, it has run into a
    loop: what was drawn after the last fork is taken back.

    A stroke in a mask of more than `CUT_MOVED_ABOVE` pixels is shifted and rotated at random. Whatever leaves the mask is
    cut off, so that the stroke may be empty.
    """
    part_pixels = np.pad(skeleton, 1)  # a frame: neighbors of a pixel at the border exist
    drawn = np.zeros_like(part_pixels)
    at_last_fork = drawn
    forks = set()
    for part in _walked_parts(part_pixels):
        point = start = _end_pixel(part)
        drawn[start] = True
        while steps := [pixel for pixel in _around(point) if part[pixel] and not drawn[pixel]]:
            following = rng.choice(steps)
            if len(steps) > 1 and point != start:
                at_last_fork = drawn.copy()
                forks.add(point)
            drawn[following] = True
            point = following
    if any(pixel in forks for pixel in _around(point)):
        drawn = at_last_fork
    stroke = ndimage.binary_dilation(drawn[1:-1, 1:-1], SQUARE)
    down, right = rng.randint(-CUT_SHIFT, CUT_SHIFT), rng.randint(-CUT_SHIFT, CUT_SHIFT)
    if mask.sum() > CUT_MOVED_ABOVE:
        stroke = ndimage.shift(stroke.astype(np.uint8), (down, right), order=0)
        stroke = ndimage.rotate(stroke, rng.uniform(-CUT_ANGLE, CUT_ANGLE), reshape=False, order=0) > 0
    return stroke & mask


def cut_stroke(mask: np.ndarray, rng: random.Random, erosions: tuple[int, int]) -> np.ndarray:
    """A random path through the skeleton of a foreground class: `eroded_skeleton`, then `cut_branches`.

    Where erosion or the shift leaves nothing, the path through the whole skeleton in its place.
    """
    skeleton = eroded_skeleton(mask, rng, erosions)
    stroke = cut_branches(skeleton, mask, rng) if skeleton.any() else skeleton
    return stroke if stroke.any() else lee_skeleton(mask)


def background_stroke(mask: np.ndarray, rng: random.Random, erosions: tuple[int, int]) -> np.ndarray:
    """The skeleton of the background as it is, one pixel wide; of the whole background where erosion leaves nothing."""
    skeleton = eroded_skeleton(mask, rng, erosions)
    return skeleton if skeleton.any() else lee_skeleton(mask)


def _around(pixel: tuple[int, int]) -> list[tuple[int, int]]:
    return [(pixel[0] + row, pixel[1] + column) for row, column in _NEIGHBORS]


def _end_pixel(part: np.ndarray) -> tuple[int, int]:
    """The first pixel in row-major order with exactly one neighbor; of a loop, which has none, the first pixel."""
    pixels = [tuple(pixel) for pixel in np.argwhere(part).tolist()]
    return next((pixel for pixel in pixels if sum(part[other] for other in _around(pixel)) == 1), pixels[0])


def _walked_parts(skeleton: np.ndarray) -> Iterator[np.ndarray]:
    parts, number = ndimage.label(skeleton, SQUARE)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    yield parts == np.argmax(sizes) + 1
    if number > 1:
        for index in np.argsort(sizes, kind="stable"):
            if sizes[index] > CUT_SMALLEST_PART:
                yield parts == index + 1


# --- ScribbleBench ----------------------------------------------------------------------------------------------------


def line_pixels(start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Pixels `(n, 2)` of the straight line (Bresenham) between two pixels `(row, column)`, both included, in their order."""
    return np.stack(line(*map(int, start), *map(int, stop)), axis=-1)


def random_component(mask: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A component (8-neighborhood) of the mask, drawn with a probability proportional to its area."""
    parts, number = ndimage.label(mask, SQUARE)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    return parts == 1 + rng.choice(number, p=sizes / sizes.sum())


def control_points(component: np.ndarray, number: int, rng: np.random.RandomState) -> np.ndarray:
    """`number` random pixels `(number, 2)` of the component. One that the pixel before it does not see (their line leaves
    the component) is replaced by a random pixel of the part of the line that is seen."""
    pixels = np.argwhere(component)
    points = [pixels[rng.randint(len(pixels))]]
    while len(points) < number:
        sight = line_pixels(points[-1], pixels[rng.randint(len(pixels))])
        inside = component[tuple(sight.T)]
        points.append(sight[-1] if inside.all() else sight[rng.randint(np.argmin(inside))])
    return np.stack(points)


def interior_stroke(component: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A smooth curve in the component: the clamped quadratic B-spline of `control_points`, one pixel wide.

    ScribbleBench draws a NURBS curve with unit weights, which is this spline.
    """
    points = control_points(component, BENCH_CONTROL_POINTS, rng).astype(float)
    inner = np.linspace(0, 1, BENCH_CONTROL_POINTS - 1)
    curve = BSpline(np.concatenate(([0, 0], inner, [1, 1])), points, 2)(np.linspace(0, 1, BENCH_CURVE_STEPS))
    curve = np.round(curve).astype(int)
    stroke = np.zeros_like(component)
    stroke[tuple(curve[0])] = True
    moves = np.flatnonzero((curve[1:] != curve[:-1]).any(axis=1))
    for index in moves:
        stroke[tuple(line_pixels(curve[index], curve[index + 1]).T)] = True
    return stroke & component


def boundary_stroke(component: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A piece of the contour some pixels inside the outline, one pixel wide, preferably where the contour bends.

    Empty for a component that is too thin for it. The image border is no outline.
    """
    stroke = np.zeros_like(component)
    if min(component.shape) < 2:  # a slice one pixel wide has no contours
        return stroke
    low, high = BENCH_CONTOUR_DEPTH
    depth = rng.randint(BENCH_HALF_THICKNESS + low, BENCH_HALF_THICKNESS + high + 1)
    contours = find_contours(ndimage.binary_erosion(component, disk(depth), border_value=1).astype(float), 0.5)
    if not contours:
        return stroke
    contour = np.concatenate(contours)
    shortest, longest = (max(1, int(share * len(contour))) for share in BENCH_CONTOUR_LENGTH)
    length = rng.randint(shortest, longest + 1)
    center = rng.choice(len(contour), p=_bend_probabilities(contour))
    chosen = np.take(contour, np.arange(length) + center - length // 2, axis=0, mode="wrap")
    stroke[tuple(np.round(chosen).astype(int).T)] = True
    return largest_parts(stroke, 1)  # of a piece that runs from one contour into the next


def _bend_probabilities(contour: np.ndarray) -> np.ndarray:
    """Proportional to the smoothed absolute curvature of a contour `(n, 2)`; uniform where it bends nowhere."""
    first = np.gradient(contour, axis=0)
    second = np.gradient(first, axis=0)
    turn = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    speed = np.hypot(first[:, 0], first[:, 1]) ** 3
    # at the tip of a spike the contour turns back, its mean speed is zero and the curvature not defined
    curvature = np.divide(turn, speed, out=np.zeros_like(turn), where=speed > 0)
    curvature = ndimage.gaussian_filter1d(curvature, 1)
    return curvature / curvature.sum() if curvature.sum() > 0 else np.full(len(contour), 1 / len(contour))


def bench_stroke(mask: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """An interior and a boundary scribble, 3 pixels wide, in one random component of the mask."""
    component = random_component(mask, rng)
    thin = interior_stroke(component, rng) | boundary_stroke(component, rng)
    return ndimage.binary_dilation(thin, disk(BENCH_HALF_THICKNESS)) & component
