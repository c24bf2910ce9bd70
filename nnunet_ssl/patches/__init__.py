"""What is done to patches: noise, mixing, rotations, boxes, grids."""
