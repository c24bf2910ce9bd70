"""Methods for sparse labels: scribbles, points, boxes; nnU-Net's ignore label marks what is not annotated."""
