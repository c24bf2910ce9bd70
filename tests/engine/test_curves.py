"""The engine's own curves and their figure."""

import math

import matplotlib
import pytest
import seaborn

from nnunet_ssl.engine.curves import Curves


def test_an_epoch_that_is_trained_again_overwrites_its_values():
    curves = Curves()
    for epoch, value in ((0, 1.0), (1, 2.0), (2, 3.0), (1, 5.0)):
        curves.log(epoch, {"term/a": value})
    assert curves.values == {"term/a": [1.0, 5.0]}


def test_a_value_that_is_missing_for_an_epoch_is_nan():
    curves = Curves()
    curves.log(0, {"term/a": 1.0})
    curves.log(1, {"term/b": 2.0})
    assert curves.values["term/a"][0] == 1.0 and math.isnan(curves.values["term/a"][1])
    assert math.isnan(curves.values["term/b"][0]) and curves.values["term/b"][1] == 2.0


def test_the_figure_does_not_take_over_enlarged_fonts_nor_change_them(tmp_path):
    seaborn.set(font_scale=2.5)
    before = dict(matplotlib.rcParams)
    curves = Curves()
    names = ("term/labeled", "term/consistency", "weight/labeled", "weight/consistency", "ema_decay/teacher")
    for epoch in range(4):
        curves.log(epoch, {name: 1.0 for name in names} | {"loader/waiting": 0.1, "steps/skipped": 0})
    curves.plot(tmp_path / "progress_ssl.png")
    assert (tmp_path / "progress_ssl.png").stat().st_size > 10_000
    assert dict(matplotlib.rcParams) == before


def test_an_unknown_kind_of_curve_is_an_error(tmp_path):
    curves = Curves()
    curves.log(0, {"unknown/a": 1.0})
    with pytest.raises(StopIteration):
        curves.plot(tmp_path / "a.png")


def test_nothing_to_draw_writes_no_file(tmp_path):
    Curves().plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
