"""Networks that a method needs beside the one nnU-Net builds from the plans."""
