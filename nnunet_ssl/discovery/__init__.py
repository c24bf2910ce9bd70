"""How nnU-Net finds the trainers.

nnU-Net imports every module below the folders of `nnUNet_extTrainer` and drops those modules again. The only folder given to
it is `nnunet_ext/`, with one thin file; the modules beside that folder are imported the ordinary way and so stay.
"""

from __future__ import annotations

from pathlib import Path

SCANNED_FOLDER = Path(__file__).resolve().parent / "nnunet_ext"
"""The folder for `nnUNet_extTrainer`."""
