"""CTAugment in the form of HiLab-git/SSL4MIS (`augmentations/ctaugment.py`, after google-research/fixmatch), as reference.

Our FixMatch has nnU-Net's intensity transforms instead: these work on images of 8 bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Operation = Callable[[Image.Image, float], Image.Image]
LARGEST_SHIFT = 0.3
LARGEST_ANGLE = 45


def _blended(change: Callable[[Image.Image], Image.Image]) -> Operation:
    return lambda image, level: Image.blend(image, change(image), level)


def _enhanced(kind) -> Operation:
    return lambda image, level: kind(image).enhance(0.1 + 1.9 * level)


def _affine(row: int, column: int) -> Operation:
    """The affine map whose coefficient (row, column) is between -0.3 and 0.3."""

    def apply(image: Image.Image, level: float) -> Image.Image:
        matrix = np.eye(2, 3)
        matrix[row, column] = (2 * level - 1) * LARGEST_SHIFT
        return image.transform(image.size, Image.Transform.AFFINE, tuple(matrix.ravel()))

    return apply


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _blended(ImageOps.autocontrast),
    "blur": _blended(lambda image: image.filter(ImageFilter.BLUR)),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "equalize": _blended(ImageOps.equalize),
    "invert": _blended(ImageOps.invert),
    "posterize": lambda image, level: ImageOps.posterize(image, 1 + int(level * 7.999)),
    "rotate": lambda image, level: image.rotate(int(np.round((2 * level - 1) * LARGEST_ANGLE))),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _affine(0, 1),
    "shear_y": _affine(1, 0),
    "smooth": _blended(lambda image: image.filter(ImageFilter.SMOOTH)),
    "solarize": lambda image, level: ImageOps.solarize(image, int(level * 255.999)),
    "translate_x": _affine(0, 2),
    "translate_y": _affine(1, 2),
}


def transformed(image: np.ndarray, name: str, level: float) -> np.ndarray:
    """An image `(H, W)` uint8 after the operation of this name at a level in [0, 1]."""
    return np.asarray(OPERATIONS[name](Image.fromarray(image), level))


def sampling_weights(rates: np.ndarray, threshold: float) -> np.ndarray:
    """`rate + 0.01` in units of its largest value in the row; 0 below the threshold."""
    weights = rates + 0.01
    weights = weights / weights.max(-1, keepdims=True)
    return np.where(weights < threshold, 0, weights)


def updated_rates(bins: int, levels: Sequence[float], proximities: Sequence[float], decay: float) -> np.ndarray:
    """Rates `(bins,)`, 1 at first, after one update for each level: `rate[b] <- decay rate[b] + (1 - decay) proximity`."""
    rates = np.ones(bins, np.float32)
    for level, proximity in zip(levels, proximities, strict=True):
        chosen = int(level * bins * 0.999)
        rates[chosen] = decay * rates[chosen] + (1 - decay) * proximity
    return rates
