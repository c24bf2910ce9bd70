"""`nnunet_ssl convert`: help pages and messages; what converters do is tested in tests/dataset_conversion."""

from __future__ import annotations

import pytest

from nnunet_ssl.cli import main


@pytest.mark.parametrize("arguments", [["-h"], ["LA", "-h"], ["ACDC", "-h"], ["MSCMR", "-h"], ["scribbles", "-h"]])
def test_every_help_page_shows_an_example(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", *arguments])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "example:\n  nnunet_ssl convert" in printed


def test_the_command_prints_a_mistake_without_a_traceback(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["convert", "LA", "-i", str(tmp_path / "empty")]) == 1
    assert f"nnunet_ssl convert: {tmp_path / 'empty'} is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", "LAX", "-i", "x"])
    assert "invalid choice: 'LAX'" in capsys.readouterr().err
