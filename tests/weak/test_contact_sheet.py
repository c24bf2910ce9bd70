"""The contact sheet: which spots get a ring."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.weak.contact_sheet import small_spots


def test_rings_are_drawn_around_small_spots_only():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[2, 3] = 1
    labels[10:12, 10:12] = 1
    labels[10:20, 0:4] = 1  # more than SMALL_SPOT pixels
    labels[np.arange(35), 39 - np.arange(35)] = 2  # one stroke, although its pixels touch at their corners only
    spots = small_spots(labels, [1, 2])
    assert list(spots) == [1] and sorted(map(tuple, spots[1])) == [(2, 3), (10.5, 10.5)]
