"""Semi- and weakly supervised training for nnU-Net."""

__version__ = "0.2.0"
