"""`nnunet_ssl trainers_path`: the folder for those who set `nnUNet_extTrainer` themselves."""

from __future__ import annotations

import argparse

from nnunet_ssl.discovery import SCANNED_FOLDER

DESCRIPTION = (
    "Print the folder in which nnU-Net finds the trainers. Installing this package adds it to nnUNet_extTrainer whenever "
    "Python starts; print it if you switched that off (nnUNet_ssl_no_autodiscovery=1) or start Python without site-packages."
)
EXAMPLE = """example:
  nnunet_ssl trainers_path
  export nnUNet_extTrainer="$(nnunet_ssl trainers_path)"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    print(SCANNED_FOLDER)
