"""nnU-Net's planning and preprocessing, with the unlabeled images."""
