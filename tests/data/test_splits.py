"""`splits_final.json` and lists of cases: formats, comparison, replacement, and what malformed files are told."""

from __future__ import annotations

import json

import pytest

from nnunet_ssl.data.ownership import foreign_files, in_record, write_record
from nnunet_ssl.data.splits import (
    copy_splits,
    grouped_folds,
    load_splits,
    patients_on_both_sides,
    read_case_list,
    sample_patients,
    split_hash,
    write_splits,
)
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import write_split


def test_split_hash_depends_on_the_cases_and_not_on_their_order():
    split = {"train": ["a", "b"], "val": ["c"]}
    assert split_hash({"val": ["c"], "train": ["b", "a"]}) == split_hash(split)
    assert split_hash({"train": ["a"], "val": ["b", "c"]}) != split_hash(split)
    assert split_hash({"train": ["c"], "val": ["a", "b"]}) != split_hash(split)


def test_a_different_split_is_replaced_only_with_overwrite_and_then_kept_as_a_copy(tmp_path):
    file = tmp_path / "splits_final.json"
    first, second = [{"train": ["a", "b"], "val": ["c"]}], [{"train": ["a"], "val": ["c"]}]
    assert write_splits(file, first, overwrite=False)
    assert not write_splits(file, [{"train": ["b", "a"], "val": ["c"]}], overwrite=False)
    with pytest.raises(UserError, match="--overwrite"):
        write_splits(file, second, overwrite=False)
    assert load_splits(file) == first
    assert write_splits(file, second, overwrite=True)
    assert write_splits(file, first, overwrite=True)
    assert load_splits(file) == first
    assert load_splits(tmp_path / "splits_final.json.1.bak") == first
    assert load_splits(tmp_path / "splits_final.json.2.bak") == second


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({}, "allowed is a list"),
        ([], "must be a list"),
        ([{"train": ["a"]}], "train and val"),
        ([{"train": ["a"], "val": "b"}], "'val' must be a list"),
        ([{"train": ["a", "a"], "val": []}], "more than once"),
        ([{"train": [], "val": ["a"]}], "'train' is empty"),
    ],
)
def test_malformed_splits_are_refused(tmp_path, splits, words):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(splits))
    with pytest.raises(UserError, match=words) as error:
        load_splits(file)
    assert str(file) in str(error.value)


def test_splits_are_copied_once_and_a_different_one_is_not_replaced(tmp_path):
    raw, preprocessed = tmp_path / "raw" / "Dataset001_A", tmp_path / "preprocessed" / "Dataset001_A"
    raw.mkdir(parents=True)
    known = {"a", "b", "c"}
    assert copy_splits(raw, preprocessed, overwrite=False, known=known) is None
    write_split(raw, (["a", "b"], ["c"]))
    target = copy_splits(raw, preprocessed, overwrite=False, known=known)
    assert target == preprocessed / "splits_final.json"
    assert load_splits(target) == [{"train": ["a", "b"], "val": ["c"]}]
    write_split(preprocessed, (["b", "a"], ["c"]), (["c"], ["a"]))  # nnU-Net allows more folds there
    copy_splits(raw, preprocessed, overwrite=False, known=known)
    assert len(load_splits(target)) == 2
    write_split(raw, (["a"], ["c"]))
    with pytest.raises(UserError, match="--overwrite"):
        copy_splits(raw, preprocessed, overwrite=False, known=known)
    copy_splits(raw, preprocessed, overwrite=True, known=known)
    assert load_splits(target) == [{"train": ["a"], "val": ["c"]}]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("1001.nii.gz", "1001 without file ending and channel is one"),
        ("1001_0000", "1001 without"),
        ("1001_0000.nii.gz", "1001 without"),
        ("2001", "allowed are its 3 case ids, such as 1001, 1002, 1003"),
    ],
)
def test_a_split_with_cases_that_are_not_there_is_not_copied(tmp_path, case, words):
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    raw.mkdir()
    write_split(raw, (["1001", "1002"], ["1003"]), (["1002", case], ["1003"]))
    with pytest.raises(UserError, match="fold 1: 'train' names 1 case") as error:
        copy_splits(raw, preprocessed, overwrite=True, known={"1001", "1002", "1003"})
    assert words in str(error.value) and not preprocessed.exists()


def test_case_lists_tolerate_crlf_blank_lines_and_commas(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\n\r\nb,\r\n  c ")
    assert read_case_list(file, ["a", "b", "c", "d"]) == ["a", "b", "c"]


@pytest.mark.parametrize(("text", "words"), [("a\nx\n", "x"), ("a\na\n", "more than once"), ("\n\n", "names no case")])
def test_case_lists_with_faults_are_refused_by_name(tmp_path, text, words):
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_case_list(file, ["a", "b"])
    assert str(file) in str(error.value)


def test_samples_keep_patients_whole_and_are_nested():
    cases = [f"p{patient}_{frame}" for patient in range(10) for frame in range(2)]
    groups = {case: case.split("_")[0] for case in cases}
    small, large = (sample_patients(cases, groups, number, seed=3) for number in (3, 7))
    assert len(small) == 6 and len(large) == 14
    assert set(small) < set(large)
    assert not patients_on_both_sides(large, set(cases) - set(large), groups)
    assert sample_patients(cases, groups, 3, seed=4) != small
    with pytest.raises(UserError, match="1 to 10"):
        sample_patients(cases, groups, 11, seed=0)


def test_folds_validate_every_case_once_and_never_split_a_patient():
    cases = [f"p{patient}_{frame}" for patient in range(7) for frame in range(3)]
    groups = {case: case.split("_")[0] for case in cases}
    folds = grouped_folds(cases, groups, 5, seed=0)
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(cases)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(cases)
        assert not patients_on_both_sides(fold["train"], fold["val"], groups)
    with pytest.raises(UserError, match="2 to 7"):
        grouped_folds(cases, groups, 8, seed=0)


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_old_split_is_ours_where_it_was_before(tmp_path, by_hand):
    file, one = tmp_path / "splits_final.json", [{"train": ["a"], "val": ["b"]}]
    write_splits(file, one, overwrite=False)
    write_record(tmp_path)
    if by_hand:
        file.write_text(file.read_text() + "\n")
    write_splits(file, [{"train": ["b"], "val": ["a"]}], overwrite=True)
    assert foreign_files(tmp_path, in_record(tmp_path)) == ([f"{file.name}.1.bak"] if by_hand else [])


@pytest.mark.parametrize(
    "entry", ["a.nii.gz", "a_0000.nii.gz", "imagesTr/a_0000.nii.gz", "labelsTr\\a.nii.gz", "a_0000"]
)
def test_a_file_in_a_list_of_ids_is_told_what_is_meant(tmp_path, entry):
    (tmp_path / "list.txt").write_text(f"{entry}\nb\n")
    with pytest.raises(UserError, match="; a without file ending and channel is one"):
        read_case_list(tmp_path / "list.txt", ["a", "b"])
