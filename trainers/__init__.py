"""One published method per file."""
