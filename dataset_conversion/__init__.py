"""Converters: one public data set per file, nnU-Net raw format plus the list of unlabeled images."""
