"""The PNG that shows what `nnunet_ssl weaken` or `expand` made: slices of some cases, with their labels before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunet_ssl.weak.boxes import Box

FILE_NAME = "weak_labels.png"
SLICES = 3  # of each case
SMALL_SPOT = 30  # pixels of the slice; a disc of radius 3

# Okabe and Ito's colors, told apart with any color vision
_BACKGROUND = "#56B4E9"
_FOREGROUND = ("#D55E00", "#009E73", "#F0E442", "#CC79A7", "#E69F00", "#0072B2")
_STRIPES = ("#FFFFFF", "#000000")  # of what a case does not annotate: two pixels each, along the diagonal
NOT_ANNOTATED = "not annotated"


@dataclass(frozen=True)
class Tile:
    """One slice: image (0 to 1), codes before and after `(rows, columns)`, boxes (row, column, height, width) by class.

    `remark` follows the title of what is after.
    """

    title: str
    image: np.ndarray
    before: np.ndarray
    after: np.ndarray
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]
    aspect: float  # height of a pixel in units of its width
    remark: str = ""


@dataclass(frozen=True)
class Side:
    """How one of the two label maps of a slice is drawn."""

    title: str
    hidden: int  # the code that is not colored
    alpha: float  # nearly 1 for thin lines and points, less for areas, so that the image is seen through
    rings: bool = False  # around annotated spots of at most SMALL_SPOT pixels, which may be one pixel


def make_tiles(
    case: str,
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    spacing: Sequence[float],
    axis: int,
    ignore: int,
    boxes: Mapping[str, Sequence[Box]],
    points: bool = False,
    remark: str = "",
) -> list[Tile]:
    """Up to `SLICES` slices of a case, in their order: the one with the most annotated foreground, the one with the most
    foreground, and others spread over the foreground; for `points`, those with the most annotated foreground."""
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    image, before, after = (np.moveaxis(array, axis, 0) for array in (image, before, after))
    in_plane = [size for index, size in enumerate(spacing) if index != axis]
    foreground, annotated = (((a > 0) & (a != ignore)).sum(axis=(1, 2)) for a in (before, after))
    extent = np.flatnonzero(foreground) if foreground.any() else np.arange(len(before))
    spread = [extent[int(share * (len(extent) - 1))] for share in (0.25, 0.75, 0.5, 0.0, 1.0)]
    best = [index for index in np.argsort(-annotated, kind="stable") if annotated[index]]
    candidates = [*(best if points else best[:1]), np.argmax(foreground), *spread]
    chosen = sorted(list(dict.fromkeys(map(int, candidates)))[:SLICES])
    tiles = []
    for index in chosen:
        cut = []
        for name, found in boxes.items():
            for start, stop in found:
                if start[axis] <= index < stop[axis]:
                    (top, left), (bottom, right) = np.delete(start, axis), np.delete(stop, axis)
                    cut.append((name, (int(top), int(left), int(bottom - top), int(right - left))))
        tiles.append(
            Tile(
                f"{case}, slice {index}",
                image[index],
                before[index],
                after[index],
                tuple(cut),
                in_plane[0] / in_plane[1],
                remark,
            )
        )
    return tiles


def write_contact_sheet(
    file: Path, rows: Sequence[Sequence[Tile]], title: str, names: Mapping[int, str], before: Side, after: Side
) -> None:
    """Write a PNG with one row per case: each slice with its label before on the left and after on the right.

    Args:
        names: code -> name of the class, the background's included. The code with the name `NOT_ANNOTATED` is drawn in stripes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    columns = 2 * max(map(len, rows))
    width, height, margin = max(6.0, 2.6 * columns), 2.7 * len(rows) + 0.8, 0.4  # inch
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    edges = {"left": 0.01, "right": 0.99, "bottom": margin / height, "top": 1 - 1.4 * margin / height}
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={**edges, "wspace": 0.03, "hspace": 0.12})
    color_of = {code: _color(code) for code, name in names.items() if name != NOT_ANNOTATED}
    striped = next((code for code, name in names.items() if name == NOT_ANNOTATED), None)
    box_color = {name: _color(code) for code, name in names.items()}
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, tiles in zip(axes, rows):
        for index, tile in enumerate(tiles):
            left, right = row[2 * index : 2 * index + 2]
            for axis, labels, side in ((left, tile.before, before), (right, tile.after, after)):
                colored = _colored(tile.image, labels, color_of, side, striped)
                axis.imshow(colored, aspect=tile.aspect, interpolation="nearest")
                text = " ".join((side.title, tile.remark)) if axis is right else f"{tile.title}: {side.title}"
                axis.set_title(text, fontsize=7, loc="left", pad=3)
                for code, spots in (small_spots(labels, color_of) if side.rings else {}).items():
                    axis.scatter(
                        spots[:, 1], spots[:, 0], s=45, facecolors="none", edgecolors=color_of[code], linewidths=1
                    )
            for name, (top, start, rows_of_box, columns_of_box) in tile.boxes:
                corner, edge = (start - 0.5, top - 0.5), box_color.get(name, "white")
                right.add_patch(
                    Rectangle(corner, columns_of_box, rows_of_box, fill=False, edgecolor=edge, linewidth=1.2)
                )
    patches = [Patch(color=color_of[code], label=names[code]) for code in sorted(color_of)]
    if striped is not None:
        patches.append(Patch(facecolor=_STRIPES[0], edgecolor=_STRIPES[1], hatch="////", label=NOT_ANNOTATED))
    figure.legend(handles=patches, loc="lower center", ncols=min(8, len(patches)), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9, y=1 - 0.3 * margin / height, va="top")
    figure.savefig(file)


def _color(code: int) -> str:
    return _BACKGROUND if code == 0 else _FOREGROUND[(code - 1) % len(_FOREGROUND)]


def small_spots(labels: np.ndarray, codes: Iterable[int]) -> dict[int, np.ndarray]:
    """Code -> centers `(number, 2)` of its small connected spots in the slice."""
    spots = {}
    for code in codes:
        parts, number = ndimage.label(labels == code, np.ones((3, 3)))  # a thin diagonal stroke is one spot
        sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        small = np.flatnonzero(sizes <= SMALL_SPOT) + 1
        if len(small):
            spots[code] = np.array(ndimage.center_of_mass(parts > 0, parts, small))
    return spots


def _colored(
    image: np.ndarray, labels: np.ndarray, color_of: Mapping[int, str], side: Side, striped: int | None
) -> np.ndarray:
    """The gray image `(rows, columns)` as RGB, mixed with the color of each label but the hidden one, and stripes."""
    from matplotlib.colors import to_rgb

    colored = np.repeat(image[..., None], 3, axis=2).astype(float)
    for code, color in color_of.items():
        if code != side.hidden:
            spot = labels == code
            colored[spot] = (1 - side.alpha) * colored[spot] + side.alpha * np.array(to_rgb(color))
    if striped is not None:
        stripe = np.indices(labels.shape).sum(axis=0) // 2 % len(_STRIPES)
        spot = labels == striped
        colored[spot] = np.array([to_rgb(color) for color in _STRIPES])[stripe[spot]]
    return colored
