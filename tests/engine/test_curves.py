"""The engine's own curves and their figure."""

import math

import matplotlib
import matplotlib.pyplot as plt
import pytest
import seaborn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.engine.curves import BOTH, LABELED, UNLABELED, Curves, is_drawn
from tests.helpers.training import make_trainer, started


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


PATCHES = {"labeled": LABELED, "consistency": UNLABELED, "mix": BOTH}


@pytest.fixture
def drawn(monkeypatch):
    """The figures, which `plot` would close."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    for figure in figures:
        plt.close(figure)


def titles(figure) -> list[str]:
    return [axis.get_title(loc="left").split(" (")[0] for axis in figure.axes]


def test_the_figure_does_not_take_over_enlarged_fonts_nor_change_them(tmp_path):
    seaborn.set(font_scale=2.5)
    before = dict(matplotlib.rcParams)
    curves = Curves()
    names = ("term/labeled", "term/consistency", "weight/labeled", "weight/consistency", "ema_decay/teacher")
    for epoch in range(4):
        curves.log(epoch, {name: 1.0 for name in names} | {"loader/waiting": 0.1, "steps/skipped": 0})
    curves.plot(tmp_path / "progress_ssl.png", patches=PATCHES)
    assert (tmp_path / "progress_ssl.png").stat().st_size > 10_000
    assert dict(matplotlib.rcParams) == before


def test_terms_stand_in_the_panel_of_their_patches_under_the_title_of_the_run(tmp_path, drawn):
    curves = Curves()
    curves.log(0, {"term/labeled": -0.5, "term/consistency": 0.2, "term/mix": 0.3, "weight/consistency": 5.0})
    curves.plot(tmp_path / "a.png", "nnUNetTrainerX, fold 0, Dataset001_A, 2d", PATCHES)
    (figure,) = drawn
    assert figure.get_suptitle() == "nnUNetTrainerX, fold 0, Dataset001_A, 2d"
    assert titles(figure) == [
        "terms on labeled patches",
        "terms on unlabeled patches",
        "terms on labeled and unlabeled patches",
        "weights",
    ]
    assert [axis.get_lines()[0].get_label() for axis in figure.axes] == ["labeled", "consistency", "mix", "consistency"]


def test_a_term_has_one_color_and_one_place_in_all_panels(tmp_path, drawn):
    curves = Curves()
    names = ("term/labeled", "term/strong", "term/features", "gradient_share/features", "gradient_share/strong")
    names += ("weight/strong", "weight/features", "ema_decay/teacher", "ema_decay/head")
    curves.log(0, dict.fromkeys(names, 0.5))
    curves.plot(tmp_path / "a.png", "", {"labeled": LABELED, "strong": UNLABELED, "features": UNLABELED})
    (figure,) = drawn
    lines = [[(line.get_label(), line.get_color()) for line in axis.get_lines()] for axis in figure.axes]
    assert lines[1] == lines[2][:2] == lines[3] == [("strong", "C1"), ("features", "C2")] and lines[0][0][1] == "C0"
    assert len({color for _, color in lines[4]}) == 2


def test_axes_begin_at_0_and_epochs_are_whole(tmp_path, drawn):
    curves = Curves()
    for epoch in range(3):
        curves.log(epoch, {"term/labeled": 1.0 - epoch, "term/consistency": 0.2 + epoch, "ema_decay/teacher": 0.99})
    curves.plot(tmp_path / "a.png", patches=PATCHES)
    labeled, consistency, decay = drawn[0].axes
    assert labeled.get_ylim()[0] < -1 < 1 < labeled.get_ylim()[1]  # nnU-Net's loss goes below 0
    assert consistency.get_ylim()[0] == 0 == decay.get_ylim()[0] and decay.get_ylim()[1] > 0.99
    assert decay.get_xlim() == (0, 2)
    assert all(float(tick).is_integer() for tick in decay.get_xticks())


def test_panels_without_anything_to_see_are_left_out(tmp_path, drawn):
    curves = Curves()
    nothing = {"steps/skipped": 0, "weight/labeled": 1.0, "gradient_share/consistency": math.nan}
    curves.log(0, {"term/labeled": 1.0, **nothing})
    curves.plot(tmp_path / "a.png", patches=PATCHES)
    curves.log(1, {"term/labeled": 1.0, **nothing, "steps/skipped": 1, "gradient_share/consistency": 0.1})
    curves.plot(tmp_path / "b.png", patches=PATCHES)
    before, after = map(titles, drawn)
    assert before == ["terms on labeled patches"]
    assert len(after) == 3 and after[2] == "skipped steps since the start"


def test_shares_of_gradients_are_on_a_logarithmic_axis_with_a_line_at_2_percent(tmp_path, drawn):
    curves = Curves()
    for epoch, share in enumerate((0.5, 0.0, math.nan, math.inf, 3.0)):
        curves.log(epoch, {"gradient_share/a": share, "gradient_share_of_whole/b": 0.5})
    curves.plot(tmp_path / "a.png")
    first, second = drawn[0].axes
    shown, line = first.get_lines()
    assert list(line.get_ydata()) == [0.02, 0.02] and first.get_yscale() == second.get_yscale() == "log"
    assert list(shown.get_ydata()) == pytest.approx([0.5, 1e-4, math.nan, math.inf, 3.0], nan_ok=True)
    lowest, highest = first.get_ylim()
    assert lowest < 1e-4 and 3.0 < highest < 10
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "2 %"]
    assert "of the labeled loss's" in first.get_title(loc="left")
    assert "of the whole loss's" in second.get_title(loc="left")


def test_a_term_of_unknown_patches_is_an_error(tmp_path):
    curves = Curves()
    curves.log(0, {"term/a": 1.0})
    with pytest.raises(KeyError):
        curves.plot(tmp_path / "a.png")


def test_nothing_to_draw_writes_no_file(tmp_path):
    Curves().plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_the_figure_is_drawn_less_and_less_often_and_at_the_end():
    drawn = [epoch for epoch in range(1000) if is_drawn(epoch, 1000)]
    assert drawn[:103] == [*range(100), 100, 102, 104] and drawn[-2:] == [988, 999]
    assert len(drawn) < 260
    assert [is_drawn(121, 122), is_drawn(121, 123)] == [True, False]


def test_a_trainer_draws_after_these_epochs(datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path, num_epochs=125))
    drawn = []
    monkeypatch.setattr(trainer.curves, "plot", lambda *_: drawn.append(trainer.current_epoch - 1))
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda t: setattr(t, "current_epoch", t.current_epoch + 1))
    for trainer.current_epoch in (0, 49, 120, 121, 124):
        trainer.on_epoch_end()
    assert drawn == [0, 49, 120, 124]
