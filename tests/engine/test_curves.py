"""The engine's own curves and their figure."""

import math

import matplotlib
import matplotlib.pyplot as plt
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


def test_shares_of_gradients_are_on_a_logarithmic_axis_with_a_line_at_2_percent(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    curves = Curves()
    for epoch, share in enumerate((0.5, 0.0, math.nan, math.inf, 3.0)):
        curves.log(epoch, {"gradient_share/a": share, "gradient_share_of_whole/b": 0.5})
    curves.plot(tmp_path / "a.png")
    first, second = figures[0].axes
    shown, line = first.get_lines()
    assert list(line.get_ydata()) == [0.02, 0.02] and first.get_yscale() == second.get_yscale() == "log"
    assert list(shown.get_ydata()) == pytest.approx([0.5, 1e-4, math.nan, math.inf, 3.0], nan_ok=True)
    lowest, highest = first.get_ylim()
    assert lowest < 1e-4 and 3.0 < highest < 10
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "2 %"]
    assert "of the labeled loss's" in first.get_title(loc="left")
    assert "of the whole loss's" in second.get_title(loc="left")


def test_an_unknown_kind_of_curve_is_an_error(tmp_path):
    curves = Curves()
    curves.log(0, {"unknown/a": 1.0})
    with pytest.raises(StopIteration):
        curves.plot(tmp_path / "a.png")


def test_nothing_to_draw_writes_no_file(tmp_path):
    Curves().plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
