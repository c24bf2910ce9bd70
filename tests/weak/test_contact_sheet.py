"""The contact sheet: which spots get a ring, and how it shows what a case does not annotate."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.weak.contact_sheet import NOT_ANNOTATED, Side, Tile, small_spots, write_contact_sheet


def test_rings_are_drawn_around_small_spots_only():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[2, 3] = 1
    labels[10:12, 10:12] = 1
    labels[10:20, 0:4] = 1  # more than SMALL_SPOT pixels
    labels[np.arange(35), 39 - np.arange(35)] = 2  # one stroke, although its pixels touch at their corners only
    spots = small_spots(labels, [1, 2])
    assert list(spots) == [1] and sorted(map(tuple, spots[1])) == [(2, 3), (10.5, 10.5)]


def test_what_is_not_annotated_is_striped_and_named(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: figures.append(figure))
    dense = np.zeros((20, 20), np.uint8)
    dense[2:10, 2:10], dense[12:18, 12:18] = 1, 2
    tile = Tile(
        "a, slice 3", np.full((20, 20), 0.5), dense, np.where(dense == 2, 3, dense), (), 1.0, "(liver annotated)"
    )
    names = {1: "liver", 2: "tumor", 3: NOT_ANNOTATED}
    write_contact_sheet(tmp_path / "a.png", [[tile]], "title", names, Side("dense", 0, 0.45), Side("weak", 0, 0.45))
    (figure,) = figures
    left, right = figure.axes
    assert [axis.get_title(loc="left") for axis in (left, right)] == ["a, slice 3: dense", "weak (liver annotated)"]
    shown = right.get_images()[0].get_array()
    stripes = np.unique(shown[12:18, 12:18].reshape(-1, 3), axis=0)
    assert stripes.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert np.array_equal(shown[2:10, 2:10], left.get_images()[0].get_array()[2:10, 2:10])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["liver", "tumor", "not annotated"]
