"""`unlabeled.json`: its format, the hashes of images, and what malformed files are told."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, content_hash, hash_case, known_groups
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import phantom, write_image


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


def test_groups_are_those_of_dataset_json_and_of_the_list(tmp_path):
    first, last = tmp_path / "preprocessed", tmp_path / "raw"
    assert known_groups(first, last) == {}
    for folder in (first, last):
        folder.mkdir()
    (first / "dataset.json").write_text(json.dumps({"groups": {"a": "old", "b": "old", "c": "p"}}))
    (last / "dataset.json").write_text(json.dumps({"labels": {}, "groups": {"a": "q", "b": "q"}}))
    assert known_groups(first, last) == {"a": "q", "b": "q", "c": "p"}
    UnlabeledList(groups={"b": "r", "d": "s"}).save(first / "unlabeled.json")
    with pytest.raises(
        UserError, match=r'preprocessed/unlabeled\.json.*groups\.b.*"r".*raw/dataset\.json says "q": correct'
    ):
        known_groups(first, last)
    UnlabeledList(groups={"b": "q"}).save(last / "unlabeled.json")
    assert known_groups(first, last) == {"a": "q", "b": "q", "c": "p", "d": "s"}
    for wrong, key in ((["a"], "'groups'"), ({"a": 1}, "groups.a")):
        (last / "dataset.json").write_text(json.dumps({"groups": wrong}))
        with pytest.raises(UserError, match=rf"raw/dataset\.json: key .*{key}"):
            known_groups(first, last)
