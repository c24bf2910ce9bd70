"""A figure of image, truth and predictions of some cases, one slice each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.listing import files_with_ending

ENDING = ".nii.gz"


def write_predictions_figure(
    file: Path, images: Path, labels: Path, predictions: Mapping[str, Path], num_cases: int, title: str
) -> None:
    """Write a PNG with a row for each of the first `num_cases` cases, in the slice with most of the truth.

    Truth is outlined in green, predictions in orange, with the Dice of all foreground of the volume.

    Args:
        images, labels: folders of `<case>_0000.nii.gz` and `<case>.nii.gz`.
        predictions: title of a column -> folder of `<case>.nii.gz`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = sorted(files_with_ending(labels, ENDING))[:num_cases]
    figure = Figure(figsize=(10, 2.6 * len(cases)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cases), 2 + len(predictions), squeeze=False)
    for row, case in zip(axes, cases):
        image, truth = _read(images / f"{case}_0000{ENDING}"), _read(labels / f"{case}{ENDING}") > 0
        index = int(np.argmax(truth.sum((1, 2))))
        found = {name: _read(folder / f"{case}{ENDING}") > 0 for name, folder in predictions.items()}
        titles = ["image", "truth", *(f"{name}: Dice {100 * _dice(mask, truth):.1f} %" for name, mask in found.items())]
        for axis, text in zip(row, titles, strict=True):
            axis.imshow(image[index], cmap="gray", vmin=image.min(), vmax=np.percentile(image, 99.8))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(text, fontsize=9)
        for axis in row[1:]:
            _outline(axis, truth[index], "limegreen")
        for axis, mask in zip(row[2:], found.values(), strict=True):
            _outline(axis, mask[index], "orange")
        row[0].set_ylabel(f"{case[:12]}\nslice {index}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else math.nan


def _outline(axis, mask: np.ndarray, color: str) -> None:
    if mask.any():
        axis.contour(mask, [0.5], colors=color, linewidths=1.2)
