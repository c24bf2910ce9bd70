"""Golden values: outputs of official implementations that our functions must reproduce. See README.md in this folder."""
