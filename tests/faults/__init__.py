"""What users' folders hold that no manual foresees: each input is either done right, or refused with nothing written."""
