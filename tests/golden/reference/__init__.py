"""Functions of the literature that only adapters of golden files run; no trainer calls them, and the wheel leaves them out."""
