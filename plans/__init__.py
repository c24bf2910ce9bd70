"""Plan presets for semi-supervised training."""
