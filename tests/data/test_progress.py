"""A bar in a terminal, lines in a log."""

import sys

from tqdm import tqdm

from nnunet_ssl.data.progress import Tenths, progress


def test_a_log_gets_a_line_per_tenth(capsys):
    with progress(25, "Converting") as bar:
        for _ in range(25):
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" %")[0] for line in lines] == [f"Converting: {10 * k}" for k in range(1, 11)]
    assert lines[0].startswith("Converting: 10 % (3 of 25, ") and lines[-1].startswith("Converting: 100 % (25 of 25, ")


def test_few_cases_give_a_line_each_and_none_give_none(capsys):
    with progress(3, "Reading") as bar:
        for _ in range(3):
            bar.update()
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "Reading: 30 %",
        "Reading: 60 %",
        "Reading: 100 %",
    ]
    for total, show in ((0, True), (3, False)):
        with progress(total, "Reading", show) as bar:
            bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    assert isinstance(progress(3, "Reading"), Tenths)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress(3, "Reading")
    bar.close()
    assert isinstance(bar, tqdm)
