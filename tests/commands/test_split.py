"""`nnunet_ssl split`: what it writes to both folders, what it keeps, what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import load_splits, split_hash
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from tests.helpers.raw_data import use_folders, write_raw_dataset, write_split

NAME = "Dataset802_Frames"
CASES = [f"p{patient:02d}_f{frame}" for patient in range(10) for frame in range(2)]
GROUPS = {case: case.split("_")[0] for case in CASES}
VALIDATION = [case for case in CASES if GROUPS[case] in ("p08", "p09")]
ACDC_LIKE = [{"train": [case for case in CASES if case not in VALIDATION], "val": VALIDATION}]


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Raw and preprocessed folder of a data set with patients of two frames and an ACDC-like split."""
    use_folders(monkeypatch, tmp_path)
    raw, preprocessed = tmp_path / "nnUNet_raw" / NAME, tmp_path / "nnUNet_preprocessed" / NAME
    write_raw_dataset(raw, {case: seed for seed, case in enumerate(CASES)}, {"u0": 50})
    UnlabeledList(groups=dict(GROUPS)).save(raw / "unlabeled.json")
    preprocessed.mkdir()
    for folder in (raw, preprocessed):
        write_split(folder, (ACDC_LIKE[0]["train"], VALIDATION))
    return raw, preprocessed


def split(*arguments: str) -> int:
    return main(["split", "-d", "802", "-np", "1", *arguments])


def test_patients_that_dataset_json_names_stay_together(dataset):
    raw, preprocessed = dataset
    (raw / "unlabeled.json").unlink()
    file = raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": GROUPS}))
    assert split("--labeled", "3", "--overwrite") == 0
    content = UnlabeledList.load(preprocessed / "unlabeled.json")
    assert content.groups == GROUPS and len({GROUPS[case] for case in content.hidden_labels["0"]}) == 5


def test_the_command_writes_split_and_hidden_labels_to_both_folders_and_says_so(dataset, capsys):
    raw, preprocessed = dataset
    assert split("--labeled", "3", "--overwrite") == 0
    said = capsys.readouterr().out
    splits = load_splits(preprocessed / "splits_final.json")
    assert splits == load_splits(raw / "splits_final.json")
    content = UnlabeledList.load(preprocessed / "unlabeled.json")
    assert content == UnlabeledList.load(raw / "unlabeled.json")
    assert len(content.hidden_labels["0"]) == 10
    assert content.unlabeled_cases(0) == sorted([*content.hidden_labels["0"], "u0"])
    assert content.groups == GROUPS and all(len(record.sha256) == 64 for record in content.labeled.values())
    assert "6 labeled cases of 3 patients, 10 cases of 5 patients with hidden labels, 1 cases in imagesUn" in said
    assert split_hash(splits[0])[:12] in said
    assert "made with the labels of all 20 cases" in said and "nnunet_ssl convert" in said and "CT channel" not in said


def test_an_existing_other_split_stays_untouched_without_overwrite(dataset, capsys):
    raw, preprocessed = dataset
    before = (raw / "splits_final.json").read_text(), (raw / "unlabeled.json").stat().st_ino
    assert split("--labeled", "3") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (raw / "splits_final.json").read_text() == (preprocessed / "splits_final.json").read_text() == before[0]
    assert split("--labeled", "3", "--overwrite") == 0
    assert load_splits(preprocessed / "splits_final.json.1.bak")[0]["train"] == ACDC_LIKE[0]["train"]
    assert split("--labeled", "3") == 0  # the same again needs no permission


@pytest.fixture
def read_only(dataset, monkeypatch):
    """The raw folder cannot be written (by root it always can)."""
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != dataset[0] and may(path, mode))
    return dataset


def test_raw_data_with_another_split_that_cannot_be_written_are_refused_before_anything_is(read_only, capsys):
    raw, preprocessed = read_only
    before = {folder: {file.name: file.read_bytes() for file in folder.glob("*.json*")} for folder in read_only}
    assert split("--labeled", "3", "--overwrite") == 1
    assert str(raw / "splits_final.json") in capsys.readouterr().err
    after = {folder: {file.name: file.read_bytes() for file in folder.glob("*split*")} for folder in read_only}
    assert all(before[folder][name] == content for folder in after for name, content in after[folder].items())
    assert not list(preprocessed.glob("*.bak"))


def test_raw_data_without_a_split_that_cannot_be_written_are_passed_by(read_only, capsys):
    raw, preprocessed = read_only
    (raw / "splits_final.json").unlink()
    assert split("--labeled", "3", "--overwrite") == 0
    assert f"{raw} cannot be written" in capsys.readouterr().out
    assert len(load_splits(preprocessed / "splits_final.json")[0]["train"]) == 6
    assert not (raw / "splits_final.json").exists()


def test_raw_data_that_cannot_be_written_and_hold_this_split_in_another_order_are_passed_by(read_only):
    raw, _ = read_only
    may = os.access
    os.access = lambda path, mode: True  # undone by the fixture
    assert split("--labeled", "3", "--overwrite") == 0
    (found,) = load_splits(raw / "splits_final.json")
    write_split(raw, (found["train"][::-1], found["val"][::-1]))
    os.access = may
    assert split("--labeled", "3", "--overwrite") == 0


def test_a_larger_budget_shows_labels_again(dataset):
    _, preprocessed = dataset
    for labeled, hidden in (("3", 10), ("6", 4), ("8", 0)):
        assert split("--labeled", labeled, "--overwrite") == 0
        assert len(UnlabeledList.load(preprocessed / "unlabeled.json").hidden_labels["0"]) == hidden


def test_ct_data_is_told_that_hidden_labels_reach_the_normalization(dataset, capsys):
    raw, _ = dataset
    content = json.loads((raw / "dataset.json").read_text())
    content["channel_names"] = {"0": "CT"}
    (raw / "dataset.json").write_text(json.dumps(content))
    assert split("--labeled", "3", "--overwrite") == 0
    assert "has a CT channel" in capsys.readouterr().out
