"""Notes of what a transform sees in the segmentation of a patch, handed over beside nnU-Net's batch."""

from __future__ import annotations

from abc import abstractmethod

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform


class Recorder(BasicTransform):
    """A transform between nnU-Net's that notes something down of each patch; the loader puts it into the batch as `key`.

    It draws no random numbers and leaves the image alone.
    """

    key: str

    def __init__(self):
        super().__init__()
        self._noted: list[torch.Tensor] = []

    @abstractmethod
    def record(self, segmentation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From a segmentation `(channels, *spatial)`: what the next transform gets, and what is noted down."""

    def __call__(self, **data) -> dict:
        segmentation, noted = self.record(data["segmentation"])
        self._noted.append(noted)
        return data | {"segmentation": segmentation}

    def pop(self) -> torch.Tensor:
        """What was noted down since the last call, `(B, channels, *spatial)`, in order."""
        noted, self._noted = self._noted, []
        return torch.stack(noted)
