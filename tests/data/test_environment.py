"""nnU-Net's variables: what is no folder is said before it becomes one."""

from __future__ import annotations

import pytest

from nnunet_ssl import cli
from nnunet_ssl.data.environment import WHAT, nnunet_folder
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import phantom, use_folders, write_image, write_raw_dataset


def test_a_folder_may_be_relative_and_end_with_a_slash(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "./raw//")
    assert nnunet_folder("nnUNet_raw").absolute() == tmp_path / "raw"


@pytest.mark.parametrize("variable", WHAT)
@pytest.mark.parametrize("value", ["", " ", "~", "~/nnUNet", "~someone/nnUNet"])
def test_a_variable_that_names_no_folder_is_refused_and_no_folder_is_made(
    monkeypatch, tmp_path, capsys, variable, value
):
    use_folders(monkeypatch, tmp_path)
    write_raw_dataset(tmp_path / "nnUNet_raw/Dataset041_X", {"a": 0, "b": 1}, {"u": 2})
    for case in "ab":
        image, label = phantom(1)
        label[::2] = 255
        write_image(image, tmp_path / f"images/{case}.nii.gz")
        write_image(label, tmp_path / f"scribbles/{case}.nii.gz")
    monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    convert = "convert scribbles -i images -l scribbles -d 50 --unlabeled_value 255 --labels ball=1 -np 1"
    for words in (convert, "split -d 41 --labeled 1 -np 1", "weaken -d 41 -o 43 --kind points -np 1"):
        assert cli.main(words.split()) == 1
        assert f"{variable} is '{value}'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_variable_that_is_not_set_is_named_with_what_it_is_for(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        nnunet_folder("nnUNet_raw")


def test_trainers_are_listed_whatever_the_folders_are(monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", "")
    assert cli.main(["trainers_path"]) == 0 and capsys.readouterr().out.strip()


def test_a_file_in_the_place_of_a_folder_is_said_to_be_one(monkeypatch, tmp_path, capsys):
    use_folders(monkeypatch, tmp_path)
    write_raw_dataset(tmp_path / "nnUNet_raw/Dataset041_X", {"a": 0, "b": 1})
    (tmp_path / "nnUNet_preprocessed/Dataset041_X").write_text("x")
    assert cli.main(["split", "-d", "41", "--labeled", "1", "-np", "1"]) == 1
    assert "Dataset041_X: File exists: a file stands where a folder is needed. Move it away" in capsys.readouterr().err
