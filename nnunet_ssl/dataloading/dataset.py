"""The unlabeled cases as nnU-Net's loader wants them: images only.

No segmentation file is ever opened, neither the placeholder that nnU-Net's preprocessing writes beside an unlabeled image
nor the true labels of cases whose labels `nnunet_ssl split` hides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2, nnUNetDatasetNumpy


def open_b2nd(file: Path):
    """An array of nnU-Net's, of which only what is asked for is unpacked."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}  # as nnU-Net: no memory maps on Windows
    return blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, **mmap)


class UnlabeledDataset:
    """Preprocessed images of unlabeled cases, with the interface that `nnUNetDataLoader` uses.

    Args:
        folders: case identifier -> folder with its preprocessed files.
        dataset_class: nnU-Net's data set class of these folders, which decides the file format.

    Raises:
        NotImplementedError: for a file format other than nnU-Net's own two.
        FileNotFoundError: when the image of a case does not exist.
    """

    def __init__(self, folders: Mapping[str, str], dataset_class: type[nnUNetBaseDataset]):
        if issubclass(dataset_class, nnUNetDatasetBlosc2):
            self._ending = ".b2nd"
        elif issubclass(dataset_class, nnUNetDatasetNumpy):
            self._ending = ".npz"
        else:
            raise NotImplementedError(
                f"Unlabeled images cannot be read in the format of {dataset_class.__name__}; nnU-Net's .b2nd and .npz can."
            )
        self.folders = dict(sorted(folders.items()))
        self.identifiers = list(self.folders)
        blosc2.set_nthreads(1)
        for case in self.identifiers:
            if not self._file(case).is_file():
                raise FileNotFoundError(self._file(case))

    def _file(self, case: str) -> Path:
        return Path(self.folders[case]) / f"{case}{self._ending}"

    def _image(self, case: str):
        file = self._file(case)
        if self._ending == ".b2nd":
            return open_b2nd(file)
        unpacked = file.with_suffix(".npy")
        return np.load(unpacked, mmap_mode="r") if unpacked.is_file() else np.load(file)["data"]

    def load_case(self, case: str):
        """Image `(C, *spatial)` and zeros `(1, *spatial)` in place of a segmentation; padding by the loader adds -1."""
        image = self._image(case)
        # writable, as nnU-Net's loader expects; pages that no patch touches take no memory
        zeros = np.zeros((1, *image.shape[1:]), np.int16)
        return image, zeros, None, {"class_locations": {}}
