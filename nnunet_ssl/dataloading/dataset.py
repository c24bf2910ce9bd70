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
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ssl.dataloading.places import FoundPlaces
from nnunet_ssl.errors import UserError

# of images, in the order in which they are looked for; the last two are of earlier versions of nnU-Net
ENDINGS = (".b2nd", ".npy", ".npz")


def open_b2nd(file: Path):
    """An array of nnU-Net's, of which only what is asked for is unpacked."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}  # as nnU-Net: no memory maps on Windows
    return blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, **mmap)


def image_file(folder: str | Path, case: str) -> Path:
    """The preprocessed image of a case, in the format that it has. UserError where there is none."""
    for ending in ENDINGS:
        if (file := Path(folder) / f"{case}{ending}").is_file():
            return file
    raise UserError(
        f"{folder} holds no preprocessed image of case {case}, neither {case}.b2nd nor {case}.npz. Run "
        "`nnunet_ssl preprocess_unlabeled` for images of imagesUn, `nnUNetv2_preprocess` for those of imagesTr."
    )


def unpack_images(folders: Mapping[str, str]) -> None:
    """Unpack the folders of cases that lie there as `.npz`, as nnU-Net does with labeled cases. For one process of all.

    In folders that cannot be written to the images stay packed, which takes longer to read.

    Args:
        folders: case identifier -> folder with its preprocessed files.
    """
    packed = {folder for case, folder in folders.items() if image_file(folder, case).suffix == ".npz"}
    for folder in sorted(packed):
        if os.access(folder, os.W_OK):
            nnUNetDatasetNumpy.unpack_dataset(folder, num_processes=max(1, get_allowed_n_proc_DA() // 2))


class UnlabeledDataset:
    """Preprocessed images of unlabeled cases, with the interface that `nnUNetDataLoader` uses.

    Each is read in the format that it has, whatever the labeled cases have: `.b2nd`, or `.npz` of earlier versions of nnU-Net.

    Args:
        folders: case identifier -> folder with its preprocessed files.

    Attributes:
        places: where foreground was found; None: nobody asks.

    Raises:
        UserError: there is no image of a case.
    """

    places: FoundPlaces | None = None

    def __init__(self, folders: Mapping[str, str]):
        self.folders = dict(sorted(folders.items()))
        self.identifiers = list(self.folders)
        blosc2.set_nthreads(1)
        self._files = {case: image_file(folder, case) for case, folder in self.folders.items()}

    def _image(self, case: str):
        file = self._files[case]
        if file.suffix == ".b2nd":
            return open_b2nd(file)
        return np.load(file, mmap_mode="r") if file.suffix == ".npy" else np.load(file)["data"]

    def load_case(self, case: str):
        """Image `(C, *spatial)` and zeros `(1, *spatial)` in place of a segmentation; padding by the loader adds -1."""
        image = self._image(case)
        # writable, as nnU-Net's loader expects; pages that no patch touches take no memory
        zeros = np.zeros((1, *image.shape[1:]), np.int16)
        return image, zeros, None, {"class_locations": {} if self.places is None else self.places.of(case)}
