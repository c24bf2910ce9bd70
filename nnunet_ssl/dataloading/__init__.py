"""From preprocessed folders to a batch."""
