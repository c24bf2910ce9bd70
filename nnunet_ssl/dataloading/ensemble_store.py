"""Averages over time of predictions of the training cases, in files: too large for memory and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.ownership import remove_folder
from nnunet_ssl.dataloading.extra_labels import labels_file


class EnsembleStore:
    """The ensemble of each case (CASE.npy, float16 `(C, *spatial)`) and the labels made of it (int16, see `labels_file`).

    Checkpoints hold the number of updates only. `updates.json` says to which number the files belong; it is missing while an update
    is under way, so that files of an interrupted or of another run are not mistaken for those of a checkpoint.

    Args:
        folder: made with the first file.

    Attributes:
        updates: finished updates.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.updates = 0

    def state_dict(self) -> dict:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]

    @property
    def _record(self) -> Path:
        return self.folder / "updates.json"

    def is_complete(self) -> bool:
        """Whether the files are those of `updates` updates."""
        return self._record.is_file() and json.loads(self._record.read_text())["updates"] == self.updates

    def restart(self) -> None:
        """Remove all files that were written here; the next update is the first. Every process does, so another may be faster."""
        remove_folder(
            self.folder, lambda path, _: "/" not in path and (path.endswith(".npy") or path == self._record.name)
        )
        self.updates = 0

    def start_update(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._record.unlink(missing_ok=True)

    def ensemble(self, case: str) -> Tensor | None:
        """The ensemble `(C, *spatial)` in float32; None before its first update."""
        file = self.folder / f"{case}.npy"
        return torch.from_numpy(np.load(file)).float() if file.is_file() else None

    def write(self, case: str, ensemble: Tensor, labels: Tensor) -> None:
        """Replace the files of a case: `ensemble` `(C, *spatial)`, `labels` `(*spatial)` integers."""
        arrays = {
            self.folder / f"{case}.npy": ensemble.cpu().numpy().astype(np.float16),
            labels_file(self.folder, case): labels.cpu().numpy().astype(np.int16),
        }
        for file, array in arrays.items():
            write_atomically(file, lambda temporary, array=array: _save(temporary, array))

    def finish_update(self) -> None:
        """To be called when all processes have written their cases."""
        self.updates += 1
        write_atomically(self._record, lambda temporary: temporary.write_text(json.dumps({"updates": self.updates})))


def _save(file: Path, array: np.ndarray) -> None:
    with open(file, "wb") as opened:  # np.save would add an ending to a name
        np.save(opened, array)
