"""`unlabeled.json` and `splits_final.json`: formats, hashes, and what malformed files are told."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.splits import (
    copy_splits_to_preprocessed,
    grouped_folds,
    load_splits,
    patients_on_both_sides,
    read_case_list,
    sample_patients,
    split_hash,
    write_splits,
)
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash, hash_case
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import phantom, use_folders, write_image, write_split


def _example() -> UnlabeledList:
    return UnlabeledList(
        unlabeled={"u1": CaseRecord("imagesUn/u1_0000.nii.gz", "a" * 64)},
        labeled={"p1_a": CaseRecord("p1/a", "b" * 64), "p1_b": CaseRecord("p1/b", "c" * 64)},
        test={"t1": CaseRecord("t/1", "d" * 64)},
        groups={"p1_a": "p1", "p1_b": "p1"},
        hidden_labels={"0": ["p1_b"]},
    )


def test_content_hash_is_the_documented_digest():
    array = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    expected = hashlib.sha256(b"(1, 2, 3)" + np.arange(6, dtype="<f4").tobytes()).hexdigest()
    assert content_hash([array]) == expected


def test_content_hash_ignores_type_and_memory_order_but_not_shape_voxels_or_channel_order():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    reference = content_hash([array])
    assert content_hash([np.asfortranarray(array.astype(np.float64))]) == reference
    assert content_hash(array[None].astype(np.float32)) == reference
    assert content_hash([array.reshape(2, 4, 3)]) != reference
    changed = array.copy()
    changed[1, 2, 3] += 1
    assert content_hash([changed]) != reference
    assert content_hash([array, changed]) != content_hash([changed, array])


def test_a_copy_with_other_spacing_and_compression_has_the_same_hash(tmp_path):
    image, _ = phantom(0)
    write_image(image, tmp_path / "a_0000.nii.gz")
    write_image(image, tmp_path / "b_0000.nrrd", spacing=(0.625, 0.625, 2.0))
    assert hash_case([tmp_path / "a_0000.nii.gz"]) == hash_case([tmp_path / "b_0000.nrrd"]) == content_hash([image])


def test_a_2d_image_is_hashed_as_one_slice(tmp_path):
    image = phantom(0)[0][0]
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "a_0000.nii.gz"))
    assert hash_case([tmp_path / "a_0000.nii.gz"]) == content_hash([image[None]])


def test_saving_and_loading_gives_the_same_list_and_leaves_nothing_else(tmp_path):
    _example().save(tmp_path / "unlabeled.json")
    assert UnlabeledList.load(tmp_path / "unlabeled.json") == _example()
    assert [file.name for file in tmp_path.iterdir()] == ["unlabeled.json"]


def test_unlabeled_cases_are_imagesun_and_the_hidden_labels_of_the_fold():
    assert _example().unlabeled_cases(0) == ["p1_b", "u1"]
    assert _example().unlabeled_cases("0") == ["p1_b", "u1"]
    assert _example().unlabeled_cases(1) == ["u1"]


def test_a_case_without_group_is_its_own_patient():
    assert _example().patient("p1_a") == "p1"
    assert _example().patient("u1") == "u1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), ["format", "2", "1"]),
        (lambda c: c.update(group={}), ["group", "unknown", "groups"]),
        (lambda c: c["labeled"].update(x={"source": "x"}), ["labeled.x", "sha256"]),
        (lambda c: c.update(unlabeled=["u1"]), ["unlabeled", "object of case ids"]),
        (lambda c: c.update(hidden_labels={"0": "p1_b"}), ["hidden_labels.0", "list of case ids"]),
        (lambda c: c.update(groups={"p1_a": 1}), ["groups.p1_a", "patient"]),
    ],
)
def test_a_malformed_list_is_refused_with_file_and_key(tmp_path, change, words):
    file = tmp_path / "unlabeled.json"
    _example().save(file)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        UnlabeledList.load(file)
    assert all(word in str(error.value) for word in [str(file), *words])


def test_broken_json_and_a_missing_list_are_refused(tmp_path):
    file = tmp_path / "unlabeled.json"
    with pytest.raises(UserError, match="does not exist"):
        UnlabeledList.load(file)
    file.write_text('{"format": 1')
    with pytest.raises(UserError, match="not valid JSON"):
        UnlabeledList.load(file)


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
        ({}, "must be a list"),
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


def test_splits_are_copied_once_and_a_different_one_is_not_replaced(tmp_path, monkeypatch):
    use_folders(monkeypatch, tmp_path)
    raw, preprocessed = tmp_path / "nnUNet_raw" / "Dataset001_A", tmp_path / "nnUNet_preprocessed" / "Dataset001_A"
    raw.mkdir()
    assert copy_splits_to_preprocessed("Dataset001_A", overwrite=False) is None
    write_split(raw, (["a", "b"], ["c"]))
    target = copy_splits_to_preprocessed("Dataset001_A", overwrite=False)
    assert target == preprocessed / "splits_final.json"
    assert load_splits(target) == [{"train": ["a", "b"], "val": ["c"]}]
    write_split(preprocessed, (["b", "a"], ["c"]), (["c"], ["a"]))  # nnU-Net allows more folds there
    copy_splits_to_preprocessed("Dataset001_A", overwrite=False)
    assert len(load_splits(target)) == 2
    write_split(raw, (["a"], ["c"]))
    with pytest.raises(UserError, match="--overwrite"):
        copy_splits_to_preprocessed("Dataset001_A", overwrite=False)
    copy_splits_to_preprocessed("Dataset001_A", overwrite=True)
    assert load_splits(target) == [{"train": ["a"], "val": ["c"]}]


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
