"""A figure of image, truth and predictions of some cases, one slice each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ENDING = ".nii.gz"


def write_predictions_figure(
    file: Path, images: Path, labels: Path, predictions: Mapping[str, Path], cases: Mapping[str, str], title: str
) -> None:
    """Write a PNG with a row for each case, in the slice with most of the truth.

    Truth is outlined in green, predictions in orange, with the Dice of all foreground of the volume.

    Args:
        images, labels: folders of `<case>_0000.nii.gz` and `<case>.nii.gz`.
        predictions: title of a column -> folder of `<case>.nii.gz`.
        cases: case -> what is said of it at the side.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 + len(predictions)
    figure = Figure(figsize=(2.3 * columns, 2.35 * len(cases) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cases), columns, squeeze=False)
    for axis, text in zip(axes[0], ["image", "truth", *predictions], strict=True):
        axis.set_title(text, fontsize=10)
    for row, (case, remark) in zip(axes, cases.items()):
        image, truth = _read(images / f"{case}_0000{ENDING}"), _read(labels / f"{case}{ENDING}") > 0
        index = int(np.argmax(truth.sum((1, 2))))
        for axis in row:
            axis.imshow(image[index], cmap="gray", vmin=image.min(), vmax=np.percentile(image, 99.8))
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in row[1:]:
            _outline(axis, truth[index], "limegreen")
        for axis, folder in zip(row[2:], predictions.values(), strict=True):
            found = _read(folder / f"{case}{ENDING}") > 0
            _outline(axis, found[index], "orange")
            axis.set_xlabel(f"Dice {100 * _dice(found, truth):.1f} %", fontsize=9)
        row[0].set_ylabel(remark, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=150)


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else math.nan


def _outline(axis, mask: np.ndarray, color: str) -> None:
    if mask.any():
        axis.contour(mask, [0.5], colors=color, linewidths=1.2)
