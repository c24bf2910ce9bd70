"""A second label map of the training cases, from files that may change during training.

It takes the way that nnU-Net has for the segmentation of a previous stage: a further channel of the segmentation, moved by the
same augmentation. Before nnU-Net's transforms for labels see it, `TakeExtraLabels` takes it off again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

from nnunet_ssl.dataloading.inside import PADDING, RecordInside
from nnunet_ssl.dataloading.recorder import Recorder

NAME = "pseudo"


def labels_file(folder: Path, case: str) -> Path:
    return folder / f"{case}_labels.npy"


class WithExtraLabels:
    """nnU-Net's data set of cases, each with the label map of `labels_file`, if there is one at that moment.

    Args:
        dataset: nnU-Net's; not of a cascade.
        folder: with integers `(*spatial)` of the preprocessed cases' shapes. A new file counts from the next patch on, also in
            worker processes that run already.
    """

    def __init__(self, dataset, folder: Path):
        self.dataset = dataset
        self.identifiers = dataset.identifiers
        self.folder = folder

    def load_case(self, case: str):
        image, segmentation, _, properties = self.dataset.load_case(case)
        file = labels_file(self.folder, case)
        # as nnU-Net: no memory maps on Windows; "c": an array that may be written to, as torch wants it, without its file
        mode = None if os.name == "nt" else "c"
        return image, segmentation, np.load(file, mmap_mode=mode) if file.is_file() else None, properties


class TakeExtraLabels(Recorder):
    """Takes the further channel off the segmentation; where there is none, or padding, the extra label is -1."""

    key = f"extra/{NAME}"

    def record(self, segmentation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own, extra = segmentation[:1], segmentation[1:]
        return own, extra if len(extra) else torch.full_like(own, PADDING)


def taking_extra_labels(transforms: Sequence[BasicTransform]) -> list[BasicTransform]:
    """Transforms made by `recording_inside` that also hand over the extra labels, as `batch.extras["pseudo"]`."""
    at = next(i for i, transform in enumerate(transforms) if isinstance(transform, RecordInside))
    return [*transforms[:at], TakeExtraLabels(), *transforms[at:]]
