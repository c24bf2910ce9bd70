"""Semi- and weakly supervised training for nnU-Net."""
