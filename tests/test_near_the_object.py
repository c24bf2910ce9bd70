"""Dice near the object: what is far away in the plane counts no more, what is near does."""

import numpy as np
import pytest

from benchmarks.near_the_object import measure, near_the_object


def test_only_false_objects_beyond_the_margin_are_removed():
    reference = np.zeros((2, 30, 30), dtype=np.uint8)
    reference[0, 5:10, 5:10] = 1  # 25 voxels
    near = near_the_object(reference, 3)
    assert near[1, 2, 12] and near[0, 12, 2] and not near[0, 1, 5] and not near[0, 5, 13]
    prediction = reference.copy()
    prediction[0, 5, 5] = 0
    prediction[1, 12, 12] = 1  # within the margin, in another slice
    prediction[0, 20:25, 20] = 1
    (row,) = measure(prediction, reference, 3)
    assert row == pytest.approx([48 / (30 + 25), 48 / (25 + 25), 24 / 30, 24 / 25])
