"""What methods need beside nnU-Net's own network."""
