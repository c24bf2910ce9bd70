"""The PNG that shows what `nnunet_ssl weaken` or `expand` made: slices of some cases, with their labels before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ssl.weak.boxes import Box

FILE_NAME = "weak_labels.png"
SLICES = 3  # of each case

# Okabe and Ito's colors, told apart with any color vision
_BACKGROUND = "#56B4E9"
_FOREGROUND = ("#D55E00", "#009E73", "#F0E442", "#CC79A7", "#E69F00", "#0072B2")


@dataclass(frozen=True)
class Tile:
    """One slice: image (0 to 1), codes before and after `(rows, columns)`, boxes (row, column, height, width) by class."""

    title: str
    image: np.ndarray
    before: np.ndarray
    after: np.ndarray
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]
    aspect: float  # height of a pixel in units of its width


@dataclass(frozen=True)
class Side:
    """How one of the two label maps of a slice is drawn."""

    title: str
    hidden: int  # the code that is not colored
    alpha: float  # nearly 1 for thin lines and points, less for areas, so that the image is seen through


def make_tiles(
    case: str,
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    spacing: Sequence[float],
    axis: int,
    ignore: int,
    boxes: Mapping[str, Sequence[Box]],
) -> list[Tile]:
    """Up to `SLICES` slices of a case: the one with the most annotated foreground, the one with the most foreground, and others
    spread over the foreground; in their order."""
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    image, before, after = (np.moveaxis(array, axis, 0) for array in (image, before, after))
    in_plane = [size for index, size in enumerate(spacing) if index != axis]
    foreground, annotated = (((a > 0) & (a != ignore)).sum(axis=(1, 2)) for a in (before, after))
    extent = np.flatnonzero(foreground) if foreground.any() else np.arange(len(before))
    spread = [extent[int(share * (len(extent) - 1))] for share in (0.25, 0.75, 0.5, 0.0, 1.0)]
    candidates = [np.argmax(annotated)] * bool(annotated.any()) + [np.argmax(foreground), *spread]
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
            )
        )
    return tiles


def write_contact_sheet(
    file: Path, rows: Sequence[Sequence[Tile]], title: str, names: Mapping[int, str], before: Side, after: Side
) -> None:
    """Write a PNG with one row per case: each slice with its label before on the left and after on the right.

    Args:
        names: code -> name of the class, the background's included.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    columns = 2 * max(map(len, rows))
    figure = Figure(figsize=(max(6.0, 2.6 * columns), 2.7 * len(rows) + 0.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    color_of = {code: _color(code) for code in names}
    box_color = {name: _color(code) for code, name in names.items()}
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, tiles in zip(axes, rows):
        for index, tile in enumerate(tiles):
            left, right = row[2 * index : 2 * index + 2]
            for axis, labels, side in ((left, tile.before, before), (right, tile.after, after)):
                axis.imshow(tile.image, cmap="gray", vmin=0, vmax=1, aspect=tile.aspect, interpolation="nearest")
                overlay = _overlay(labels, color_of, side)
                axis.imshow(overlay, aspect=tile.aspect, interpolation="nearest")
                axis.set_title(side.title if axis is right else f"{tile.title}: {side.title}", fontsize=7, loc="left")
            for name, (top, start, height, width) in tile.boxes:
                edge = box_color.get(name, "white")
                right.add_patch(
                    Rectangle((start - 0.5, top - 0.5), width, height, fill=False, edgecolor=edge, linewidth=1.2)
                )
    patches = [Patch(color=color_of[code], label=name) for code, name in sorted(names.items())]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(8, len(patches)), frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(file)


def _color(code: int) -> str:
    return _BACKGROUND if code == 0 else _FOREGROUND[(code - 1) % len(_FOREGROUND)]


def _overlay(labels: np.ndarray, color_of: Mapping[int, str], side: Side) -> np.ndarray:
    from matplotlib.colors import to_rgba

    overlay = np.zeros((*labels.shape, 4))
    for code, color in color_of.items():
        if code != side.hidden:
            overlay[labels == code] = to_rgba(color, side.alpha)
    return overlay
