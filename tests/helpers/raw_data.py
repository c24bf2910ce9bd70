"""Small raw data sets written with SimpleITK, for the tests of preprocessing, splits and checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

SHAPE = (16, 24, 20)  # voxels (z, y, x)


def phantom(seed: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map with a bright ball at a random place in smooth noise, both `shape`."""
    rng = np.random.default_rng(seed)
    center = [size / 2 + rng.uniform(-2, 2) for size in shape]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), center)))
    label = (distance < 4.5 + 0.3 * rng.uniform()).astype(np.uint8)
    texture = gaussian_filter(rng.normal(size=shape), 1.0)
    return (100 + 150 * texture + 40 * label).astype(np.float32), label


def write_image(array: np.ndarray, file: Path, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def write_raw_dataset(
    folder: Path,
    labeled: Mapping[str, int],
    unlabeled: Mapping[str, int] | None = None,
    test: Mapping[str, int] | None = None,
    channels: int = 1,
) -> None:
    """Write a raw data set as by hand, without `unlabeled.json` and splits; the mappings give cases their image's seed."""
    folders = {"imagesTr": labeled, "imagesUn": unlabeled or {}, "imagesTs": test or {}}
    for images, cases in folders.items():
        for case, seed in cases.items():
            for channel in range(channels):
                image, label = phantom(seed)
                write_image(image + channel, folder / images / f"{case}_{channel:04d}.nii.gz")
            if images != "imagesUn":
                write_image(label, folder / images.replace("images", "labels") / f"{case}.nii.gz")
    dataset_json = {
        "channel_names": {str(channel): "MR" for channel in range(channels)},
        "labels": {"background": 0, "ball": 1},
        "numTraining": len(labeled),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))


def write_split(folder: Path, *folds: tuple[Sequence[str], Sequence[str]]) -> None:
    splits = [{"train": list(train), "val": list(val)} for train, val in folds]
    (folder / "splits_final.json").write_text(json.dumps(splits))


def use_folders(monkeypatch, root: Path) -> None:
    """Point nnU-Net's three variables below `root`."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(root / name))


# neither the origin nor the direction is the default one, and no two axes are alike
ORIENTED = {
    "spacing": (0.8, 1.1, 5.0),
    "origin": (-12.5, 3.0, 40.0),
    "direction": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
}


def write_oriented(array: np.ndarray, file: Path) -> None:
    """An image or label map `(z, y, x)` with the geometry of `ORIENTED`."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(ORIENTED["spacing"])
    image.SetOrigin(ORIENTED["origin"])
    image.SetDirection(ORIENTED["direction"])
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def read_array(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
