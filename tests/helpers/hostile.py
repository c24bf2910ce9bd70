"""Files that execute something when they are unpickled: they make a folder, which tells a test that it has happened."""

from __future__ import annotations

import os
from pathlib import Path

import torch


class MakesFolder:
    """Makes `folder`, once, when it is unpickled and however often."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder), 0o777, True)


def spoil_checkpoint(file: Path, folder: Path) -> None:
    """Add something to a checkpoint that makes `folder` when it is unpickled."""
    content = torch.load(file, weights_only=False)
    torch.save({**content, "more": MakesFolder(folder)}, file)
