"""The weak label map of one case: applies the rules of `strokes`, `points` and `boxes` slice by slice or to the volume.

Everything random is drawn with a seed made of the name of the case and the number of the slice, so that a case gets the same
weak labels whichever other cases the data set has, and in whichever order they are worked on.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from nnunet_ssl.weak.boxes import Box, component_boxes, filled_boxes, slice_boxes
from nnunet_ssl.weak.points import (
    balls,
    center_points,
    centroid_disk,
    eroded_seed,
    extreme_points,
    points_around,
    random_disk,
    random_points,
)
from nnunet_ssl.weak.strokes import (
    background_stroke,
    bench_stroke,
    cut_stroke,
    innermost_pixel,
    largest_parts,
    paint,
    skeleton_stroke,
    walk_stroke,
)

# changes whenever the same case and recipe give another label map
RULES_VERSION = 1
BACKGROUND = 0
# kind -> rule -> options and their defaults; the first rule is the default. None: the kind has one rule
RULES: dict[str, dict[str | None, dict[str, object]]] = {
    "scribble": {rule: {"components": None} for rule in ("bench", "skeleton", "cut", "walk")},
    "points": {
        **{rule: {"radius": 1, "margin": 5.0, "background_points": 10} for rule in ("center", "extreme")},
        **{rule: {"radius": 2, "background_points": 10} for rule in ("centroid", "random", "erosion")},
    },
    "boxes": {rule: {"margin": 0.0, "radius": None} for rule in ("2d", "3d")},
    "slices": {"fraction": {"fraction": 0.1}, "every": {"every": 10}},
    "partial": {None: {}},
}
_SEED_STEP = (
    2654435761  # between the streams of two `--seed`; prime, so that no case and slice of one meets those of another
)


@dataclass(frozen=True)
class Recipe:
    """What is made of every case.

    Attributes:
        kind: scribble, points, boxes, slices or partial.
        rule: of the kind; None where it has no choice.
        options: parameters of the rule, by the names of the functions below.
        axis: of the array, along which slices are counted.
        seed: for another draw of everything random.
    """

    kind: str
    rule: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    axis: int = 0
    seed: int = 0


def seed_of(case: str, index: int = 0, seed: int = 0) -> int:
    """crc32 of the name of the case + number of the slice + seed * 2654435761, modulo 2^32."""
    return (zlib.crc32(case.encode()) + index + seed * _SEED_STEP) % 2**32


def weaken(
    labels: np.ndarray,
    case: str,
    spacing: Sequence[float],
    recipe: Recipe,
    ignore: int,
    classes: Mapping[str, Sequence[int]],
) -> tuple[np.ndarray, dict[str, list[Box]]]:
    """The weak label map of a case.

    Args:
        labels: dense codes `(slices, rows, columns)`, 0 is background; a 2D image has one slice. Which axis is the one of the
            slices, `recipe.axis` says.
        case: its name, from which the seeds are made.
        spacing: mm per axis of `labels`.
        ignore: code for what is not annotated; larger than every code of `labels`.
        classes: name of each foreground class or region -> its codes. For boxes; for partial labels only the annotated ones.

    Returns:
        The label map (uint16, the shape of `labels`), and for boxes those of each class.
    """
    labels = np.moveaxis(labels, recipe.axis, 0)
    spacing = (spacing[recipe.axis], *np.delete(spacing, recipe.axis))
    boxes: dict[str, list[Box]] = {}
    seeds = [seed_of(case, index, recipe.seed) for index in range(len(labels))]
    if recipe.kind == "scribble":
        weak = scribble_labels(labels, seeds, ignore, recipe.rule, **recipe.options)
    elif recipe.kind == "points" and recipe.rule in SLICE_SEEDS:
        weak = seed_labels(labels, seeds, ignore, recipe.rule, **recipe.options)
    elif recipe.kind == "points":
        weak = point_labels(labels, spacing, seeds[0], ignore, recipe.rule, **recipe.options)
    elif recipe.kind == "boxes":
        weak, boxes = box_labels(labels, spacing, ignore, classes, recipe.rule, **recipe.options)
        boxes = {name: [_moved_back(box, recipe.axis) for box in found] for name, found in boxes.items()}
    elif recipe.kind == "slices":
        weak = slice_labels(labels, seeds[0], ignore, recipe.rule, **recipe.options)
    else:
        weak = partial_labels(labels, classes)
    return np.ascontiguousarray(np.moveaxis(weak, 0, recipe.axis)), boxes


def _moved_back(box: Box, axis: int) -> Box:
    return tuple((*corner[1 : axis + 1], corner[0], *corner[axis + 1 :]) for corner in box)


# --- scribbles --------------------------------------------------------------------------------------------------------

# rule -> stroke of (mask, code, number of classes, python's generator, numpy's generator)
SCRIBBLES: dict[str, Callable[..., np.ndarray]] = {
    "bench": lambda mask, code, classes, rng, numpy_rng: bench_stroke(mask, numpy_rng),
    "skeleton": lambda mask, code, classes, rng, numpy_rng: skeleton_stroke(mask),
    # erosions between 1 and the number of foreground classes, as the script of WSL4MIS
    "cut": lambda mask, code, classes, rng, numpy_rng: (background_stroke if code == BACKGROUND else cut_stroke)(
        mask, rng, (1, max(1, classes - 1))
    ),
    "walk": lambda mask, code, classes, rng, numpy_rng: walk_stroke(mask, numpy_rng),
}


def scribble_labels(
    labels: np.ndarray, seeds: Sequence[int], ignore: int, rule: str, components: int | None
) -> np.ndarray:
    """Scribbles in every slice, for the background and every class that the slice has.

    Args:
        rule: a key of `SCRIBBLES`.
        components: only in so many of the largest components of a class in a slice; None: all.

    A class for which the rule draws nothing (it is too small or too thin) gets its innermost pixel and the neighbors of that.
    """
    weak = np.full(labels.shape, ignore, dtype=np.uint16)
    for index, (dense, seed) in enumerate(zip(labels, seeds)):
        rng, numpy_rng = random.Random(seed), np.random.RandomState(seed)
        strokes = {}
        for code in np.unique(dense).tolist():
            mask = largest_parts(dense == code, components)
            stroke = SCRIBBLES[rule](mask, code, ignore, rng, numpy_rng)
            if not stroke.any():
                stroke = ndimage.binary_dilation(innermost_pixel(mask)) & mask
            strokes[code] = stroke
        weak[index] = paint(strokes, ignore)
    return weak


# --- points and seeds -------------------------------------------------------------------------------------------------

VOLUME_POINTS = {"center": center_points, "extreme": extreme_points}
SLICE_SEEDS = ("centroid", "random", "erosion")


def point_labels(
    labels: np.ndarray,
    spacing: Sequence[float],
    seed: int,
    ignore: int,
    rule: str,
    radius: int,
    margin: float,
    background_points: int,
) -> np.ndarray:
    """Points in every component of every class; in the background one beyond each side of every object, and random ones.

    Args:
        rule: center or extreme.
        radius: in voxels, of the ball that is labeled around a point; it ends where the class ends.
        margin: mm between an object (all classes together) and the background points beyond its sides.
        background_points: number of random points in the background.
    """
    weak = np.full(labels.shape, ignore, dtype=np.uint16)
    for code in np.unique(labels).tolist():
        mask = labels == code
        if code == BACKGROUND:
            rng = np.random.RandomState(seed)
            points = np.concatenate(
                (points_around(~mask, spacing, margin), random_points(mask, background_points, rng))
            )
        else:
            points = VOLUME_POINTS[rule](mask, spacing)
        weak[balls(points, radius, mask)] = code
    return weak


def seed_labels(
    labels: np.ndarray, seeds: Sequence[int], ignore: int, rule: str, radius: int, background_points: int
) -> np.ndarray:
    """A seed for every class in every slice, and random disks in the background.

    Args:
        rule: centroid (a disk there), random (a disk at a random pixel) or erosion (what erosions leave).
        radius: of the disks, in pixels.
        background_points: number of disks in the background of each slice.
    """
    weak = np.full(labels.shape, ignore, dtype=np.uint16)
    for index, (dense, seed) in enumerate(zip(labels, seeds)):
        rng = np.random.RandomState(seed)
        strokes = {}
        for code in np.unique(dense).tolist():
            mask = dense == code
            if code == BACKGROUND:
                strokes[code] = np.zeros_like(mask)
                for _ in range(background_points):
                    strokes[code] |= random_disk(mask, 2 * radius, rng)
            elif rule == "centroid":
                strokes[code] = centroid_disk(mask, 2 * radius)
            elif rule == "random":
                strokes[code] = random_disk(mask, 2 * radius, rng)
            else:
                strokes[code] = eroded_seed(mask)
        weak[index] = paint(strokes, ignore)
    return weak


# --- boxes, slices, partial labels ------------------------------------------------------------------------------------


def box_labels(
    labels: np.ndarray,
    spacing: Sequence[float],
    ignore: int,
    classes: Mapping[str, Sequence[int]],
    rule: str,
    margin: float,
    radius: int | None,
) -> tuple[np.ndarray, dict[str, list[Box]]]:
    """Background outside the boxes of all classes, `ignore` inside but for seeds; and the boxes of each class.

    Args:
        rule: 2d (one box per component and slice) or 3d (one per component).
        margin: mm by which a box is wider on each side, rounded to voxels.
        radius: voxels around the innermost voxel of each object that are annotated, as far as the object goes; None: no seeds.
    """
    margins = [round(margin / size) for size in spacing]
    boxes = {}
    seeds = np.zeros(labels.shape, dtype=bool)
    for name, codes in classes.items():
        mask = np.isin(labels, codes)
        boxes[name] = slice_boxes(mask, margins[1:]) if rule == "2d" else component_boxes(mask, margins)
        if radius is None:
            continue
        parts = zip(mask, seeds) if rule == "2d" else [(mask, seeds)]
        for part, seeds_of_part in parts:
            seeds_of_part |= balls(center_points(part, spacing[-part.ndim :]), radius, part)
    weak = np.full(labels.shape, BACKGROUND, dtype=np.uint16)
    weak[filled_boxes([box for found in boxes.values() for box in found], labels.shape)] = ignore
    weak[seeds] = labels[seeds]
    return weak, boxes


def slice_labels(labels: np.ndarray, seed: int, ignore: int, rule: str, **amount: float) -> np.ndarray:
    """Some slices as they are, the others `ignore`. The slice with the most foreground is always one of them.

    Args:
        rule: every (one in `every` slices) or fraction (a random `fraction` of the slices, at least one).
        amount: `every` or `fraction`, whichever the rule is.
    """
    number = len(labels)
    largest = int(np.argmax((labels != BACKGROUND).reshape(number, -1).sum(axis=1)))
    if rule == "every":
        kept = np.arange(largest % amount["every"], number, amount["every"])
    else:
        others = np.setdiff1d(np.arange(number), [largest])
        drawn = np.random.RandomState(seed).permutation(others)
        kept = np.append(drawn[: max(1, round(amount["fraction"] * number)) - 1], largest)
    weak = np.full(labels.shape, ignore, dtype=np.uint16)
    weak[kept] = labels[kept]
    return weak


def partial_labels(labels: np.ndarray, classes: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The codes of the annotated classes; every other class becomes background."""
    annotated = [code for codes in classes.values() for code in codes]
    return np.where(np.isin(labels, annotated), labels, BACKGROUND).astype(np.uint16)


def sources_of_patients(
    patients: Sequence[str], number: int, seed: int = 0, strata: Mapping[str, object] | None = None
) -> dict[str, int]:
    """Which of `number` sources each patient comes from: equally many (or one more) each, at random.

    Args:
        strata: patient -> what is spread evenly over the sources as well, such as the folds that validate on it.
    """
    strata = strata or {}
    drawn = np.random.RandomState(seed).permutation(sorted(set(patients))).tolist()
    drawn.sort(key=lambda patient: str(strata.get(patient, "")))
    return {patient: index % number for index, patient in enumerate(drawn)}
