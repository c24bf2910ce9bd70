"""How many voxels of each class are annotated in preprocessed cases."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor

from nnunet_ssl.data.progress import progress
from nnunet_ssl.dataloading.inside import PADDING


def count_annotated(
    dataset: nnUNetBaseDataset, cases: Sequence[str], num_classes: int, *, padding: bool = True, num_threads: int = 1
) -> Tensor:
    """Annotated voxels per class, summed over the cases.

    Args:
        dataset: nnU-Net's preprocessed cases.
        cases: the identifiers to count.
        num_classes: C, the classes 0 to C - 1. Everything else (the ignore label) is not counted.
        padding: what nnU-Net cropped as empty counts as background, as its loss does.
        num_threads: cases that are decompressed at once.

    Returns:
        `(C,)` int64.
    """

    def of_case(case: str) -> np.ndarray:
        segmentation = np.asarray(dataset.load_case(case)[1][0])
        counts = np.zeros(num_classes - PADDING, dtype=np.int64)
        for part in segmentation:  # `bincount` makes 8 bytes of every voxel, so not of a whole volume at once
            found = np.bincount(part.ravel() - PADDING, minlength=len(counts))
            counts += found[: len(counts)]
        if padding:
            counts[-PADDING] += counts[0]
        return counts[-PADDING:]

    counts = []
    with ThreadPoolExecutor(num_threads) as pool, progress(len(cases), "Counting annotated voxels") as bar:
        for of_one in pool.map(of_case, cases):
            counts.append(of_one)
            bar.update()
    return torch.from_numpy(np.sum(counts, axis=0, dtype=np.int64))
