"""Preprocessed cases as the slices that SSL4MIS trains on, and its probabilities back in the image. See `peer.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

PATCH = 96  # pixels of 2.5 mm: the whole heart in all labeled and validation frames of the studies
# name, image (Z, Y, X), label map (Z, Y, X) or None
Cases = Iterable[tuple[str, np.ndarray, np.ndarray | None]]


def common_pixels(size: int, patch: int) -> tuple[slice, slice]:
    """Where an axis of `size` pixels and a window of `patch` around its centre overlap: in the axis, in the window."""
    start, length = (size - patch) // 2, min(size, patch)
    return slice(max(start, 0), max(start, 0) + length), slice(max(-start, 0), max(-start, 0) + length)


def cut_out(array: np.ndarray, patch: int = PATCH) -> np.ndarray:
    """The central window `(..., patch, patch)` of an array `(..., Y, X)`; zeros where it sticks out."""
    (y, to_y), (x, to_x) = (common_pixels(size, patch) for size in array.shape[-2:])
    window = np.zeros((*array.shape[:-2], patch, patch), array.dtype)
    window[..., to_y, to_x] = array[..., y, x]
    return window


def put_back(probabilities: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Probabilities `(C, Z, patch, patch)` of the central window -> `(C, Z, Y, X)` of the image; outside is background."""
    (y, from_y), (x, from_x) = (common_pixels(length, probabilities.shape[-1]) for length in size)
    image = np.zeros((*probabilities.shape[:2], *size), probabilities.dtype)
    image[0] = 1
    image[..., y, x] = probabilities[..., from_y, from_x]
    return image


def scaled(volume: np.ndarray) -> np.ndarray:
    """Intensities of a whole volume in [0, 1], as SSL4MIS's script for ACDC makes them."""
    return ((volume - volume.min()) / (volume.max() - volume.min())).astype(np.float32)


def write_slices(root: Path, cases: Cases) -> int:
    """Write a training set in the layout of SSL4MIS and return the number of labeled slices, which are the first.

    Args:
        cases: the labeled cases, then the unlabeled ones, without label maps: their slices get zeros, so that no label can be
            used.
    """
    (root / "data/slices").mkdir(parents=True, exist_ok=True)
    names, num_labeled = [], 0
    for case, image, label in cases:
        num_labeled += 0 if label is None else len(image)
        classes = np.zeros_like(image) if label is None else label.clip(0)  # nnU-Net marks what is outside by -1
        for index, (pixels, target) in enumerate(zip(cut_out(scaled(image)), cut_out(classes), strict=True)):
            names.append(f"{case}_slice_{index}\n")
            with h5py.File(root / f"data/slices/{case}_slice_{index}.h5", "w") as file:
                file["image"], file["label"] = pixels, target.astype(np.uint8)
    (root / "train_slices.list").write_text("".join(names))
    # the validation of SSL4MIS, which is switched off, still reads something
    (root / "val.list").write_text(f"slices/{names[0]}")
    return num_labeled
