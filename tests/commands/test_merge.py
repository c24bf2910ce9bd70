"""`nnunet_ssl merge`: one data set with partial labels from several with different classes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.annotated_classes import PartialLabels
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, hash_case
from tests.helpers.raw_data import write_image

SHAPE = (5, 7, 6)
SPLEEN = {"background": 0, "spleen": 1}
ORGANS = {"background": 0, "left_kidney": 1, "right_kidney": 2, "aorta": 3, "spleen": 4}
MAP = {
    "9": {"1": "spleen"},
    "Dataset017_Organs": {"left_kidney": "kidney", "right_kidney": "kidney", "3": None, "4": "spleen"},
}


def write_dataset(root: Path, name: str, labels: dict, seed: int, labeled=4, test=2, unlabeled=1, **changes) -> Path:
    """A raw data set with random images and label maps that hold every label."""
    folder = root / "nnUNet_raw" / name
    rng = np.random.default_rng(seed)
    for images, count, prefix in (("imagesTr", labeled, "c"), ("imagesTs", test, "t"), ("imagesUn", unlabeled, "u")):
        for i in range(count):
            write_image(
                rng.normal(size=SHAPE).astype(np.float32), folder / images / f"{prefix}{i}_0000.nii.gz", (0.5, 1, 3)
            )
            if images != "imagesUn":
                label = rng.integers(0, len(labels), SHAPE).astype(np.uint8)
                write_image(label, folder / images.replace("images", "labels") / f"{prefix}{i}.nii.gz", (0.5, 1, 3))
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": labeled, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    return folder


@pytest.fixture
def root(tmp_path):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        os.environ[name] = str(tmp_path / name)
    write_dataset(tmp_path, "Dataset009_Spleen", SPLEEN, seed=0)
    write_dataset(tmp_path, "Dataset017_Organs", ORGANS, seed=1, labeled=6)
    (tmp_path / "map.json").write_text(json.dumps(MAP))
    return tmp_path


def merge(root: Path, *options: str, mapping: str | None = "map.json", ids=("9", "17")) -> int:
    words = ["merge", "-i", *ids, "-o", "203", "-name", "Abdomen", "-np", "1", *options]
    return main([*words, "--map", str(root / mapping)] if mapping else words)


def voxels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_images_are_the_same_and_labels_have_common_ids(root, capsys):
    assert merge(root, "--ignore") == 0
    printed = capsys.readouterr().out
    assert "4 labeled, 1 unlabeled, 2 test cases as Spleen_*, annotates spleen" in printed
    raw = RawDataset.open(203)
    assert raw.folder.name == "Dataset203_Abdomen"
    assert raw.dataset_json["labels"] == {"background": 0, "spleen": 1, "kidney": 2, "ignore": 3}
    assert raw.dataset_json["numTraining"] == len(raw.labeled) == 10
    assert len(raw.unlabeled) == 2 and len(raw.test) == len(raw.test_labels) == 4
    codes = {"Spleen": [0, 1], "Organs": [0, 2, 2, 3, 1]}
    for name, number in (("Spleen", "009"), ("Organs", "017")):
        source = root / "nnUNet_raw" / f"Dataset{number}_{name}"
        for folder in ("imagesTr", "imagesTs", "imagesUn"):
            for file in sorted((source / folder).iterdir()):
                assert (raw.folder / folder / f"{name}_{file.name}").read_bytes() == file.read_bytes()
        for folder in ("labelsTr", "labelsTs"):
            for file in sorted((source / folder).iterdir()):
                merged = raw.folder / folder / f"{name}_{file.name}"
                np.testing.assert_array_equal(voxels(merged), np.array(codes[name])[voxels(file)])
                assert sitk.ReadImage(str(merged)).GetSpacing() == sitk.ReadImage(str(file)).GetSpacing()
    table = PartialLabels.of(raw.dataset_json)
    for case in (*raw.labeled, *raw.test):
        assert table.names(case) == ({"spleen"} if case.startswith("Spleen_") else {"spleen", "kidney"})
    assert not list(raw.folder.parent.glob(".*"))
    records = UnlabeledList.load(raw.folder / "unlabeled.json")
    assert records.labeled["Organs_c0"].sha256 == hash_case(raw.labeled["Organs_c0"])
    assert records.test["Spleen_t1"].source == "Dataset009_Spleen/imagesTs/t1"


def test_licence_reference_and_the_like_are_kept_and_what_is_lost_is_named(root, capsys):
    own = {
        "Dataset009_Spleen": {"licence": "CC", "reference": "A", "tensorImageSize": "3D", "release": 1, "training": []},
        "Dataset017_Organs": {
            "licence": "CC",
            "reference": "B",
            "tensorImageSize": "3D",
            "release": 2,
            "description": "C",
        },
    }
    for name, keys in own.items():
        file = root / "nnUNet_raw" / name / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    assert merge(root, "--ignore") == 0
    assert "dataset.json: left out: release, training" in capsys.readouterr().out
    content = RawDataset.open(203).dataset_json
    expected = {
        "licence": "CC",
        "reference": "Dataset009_Spleen: A; Dataset017_Organs: B",
        "tensorImageSize": "3D",
        "description": "Dataset017_Organs: C",
    }
    assert {key: content.get(key) for key in (*expected, "release", "training")} == {
        **expected,
        "release": None,
        "training": None,
    }
    assert merge(root, "--ignore") == 0 and "already holds this merge" in capsys.readouterr().out


def test_every_fold_validates_on_every_data_set_and_each_case_is_validated_once(root):
    assert merge(root, "--ignore", "-f", "3") == 0
    splits = load_splits(root / "nnUNet_raw" / "Dataset203_Abdomen" / "splits_final.json")
    assert len(splits) == 3
    cases = sorted(case for split in splits for case in split["val"])
    assert cases == sorted({*splits[0]["train"], *splits[0]["val"]}) and len(cases) == 10
    for split in splits:
        assert not set(split["train"]) & set(split["val"])
        for source, number in (("Spleen_", (1, 2)), ("Organs_", (2,))):
            assert sum(case.startswith(source) for case in split["val"]) in number
    again = [dict(split) for split in splits]
    assert merge(root, "--ignore", "-f", "3", "--overwrite") == 0
    assert load_splits(root / "nnUNet_raw" / "Dataset203_Abdomen" / "splits_final.json") == again


@pytest.mark.parametrize("place", ["nnUNet_raw", "nnUNet_preprocessed"])
@pytest.mark.parametrize("name", ["unlabeled.json", "dataset.json"])
def test_patients_and_images_that_two_data_sets_share_are_not_cut_apart(root, capsys, name, place):
    raw, patients = root / "nnUNet_raw", {"c0": "p", "c1": "p", "c2": "p"}
    file = root / place / "Dataset017_Organs" / name
    if place == "nnUNet_preprocessed":  # nnU-Net copies dataset.json there
        file.parent.mkdir()
        shutil.copy(raw / file.parent.name / "dataset.json", file.parent)
    if name == "unlabeled.json":
        UnlabeledList(labeled={f"c{i}": CaseRecord("x", "") for i in range(6)}, groups=patients).save(file)
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": patients}))
    image = (raw / "Dataset017_Organs" / "imagesTr" / "c1_0000.nii.gz").read_bytes()
    (raw / "Dataset009_Spleen" / "imagesTr" / "c3_0000.nii.gz").write_bytes(image)
    assert merge(root, "--ignore", "-f", "3") == 0
    assert "Spleen_c3 = Organs_c1" in capsys.readouterr().out
    together = {"Spleen_c3", "Organs_c0", "Organs_c1", "Organs_c2"}
    for split in load_splits(raw / "Dataset203_Abdomen" / "splits_final.json"):
        assert len(together & set(split["val"])) in (0, 4)
    groups = UnlabeledList.load(raw / "Dataset203_Abdomen" / "unlabeled.json")
    assert len({groups.patient(case) for case in together}) == 1


def test_hidden_labels_that_stand_in_the_preprocessed_folder_alone_are_announced(root, capsys):
    file = root / "nnUNet_preprocessed" / "Dataset009_Spleen" / "unlabeled.json"
    file.parent.mkdir()
    UnlabeledList(labeled={"c0": CaseRecord("x", "")}, hidden_labels={"0": ["c0"]}).save(file)
    assert merge(root, "--ignore") == 0
    assert "Dataset009_Spleen: its hidden labels" in capsys.readouterr().out


def test_test_labels_without_an_image_are_named(root, capsys):
    folder = root / "nnUNet_raw" / "Dataset009_Spleen" / "labelsTs"
    shutil.copy(folder / "t0.nii.gz", folder / "t9.nii.gz")
    assert merge(root, "--ignore") == 0
    assert "Dataset009_Spleen: left out: " in (said := capsys.readouterr().out) and "imagesTs: t9." in said


def test_a_data_set_with_one_patient_is_never_taken_out_of_training(root):
    write_dataset(root, "Dataset030_One", {"background": 0, "gallbladder": 1}, seed=5, labeled=1)
    assert merge(root, "-f", "3", mapping=None, ids=("9", "30")) == 0
    splits = load_splits(root / "nnUNet_raw" / "Dataset203_Abdomen" / "splits_final.json")
    assert all("One_c0" in split["train"] for split in splits)


def test_without_a_map_equal_names_are_one_class_and_an_ignore_label_stays_one(root):
    write_dataset(root, "Dataset030_Scribbles", {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}, seed=4)
    assert merge(root, mapping=None, ids=("9", "30")) == 0
    raw = RawDataset.open(203)
    assert raw.dataset_json["labels"] == {"background": 0, "spleen": 1, "liver": 2, "ignore": 3}
    label = raw.folder.parent / "Dataset030_Scribbles" / "labelsTr" / "c2.nii.gz"
    merged = voxels(raw.folder / "labelsTr" / "Scribbles_c2.nii.gz")
    np.testing.assert_array_equal(merged, np.array([0, 2, 1, 3])[voxels(label)])


def test_partial_labels_of_a_data_set_are_carried_over(root):
    folder = root / "nnUNet_raw" / "Dataset017_Organs"
    content = json.loads((folder / "dataset.json").read_text())
    content["partial_labels"] = {"cases": {"c1": ["spleen"], "t0": ["left_kidney", "right_kidney"], "c4": []}}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert merge(root, "--ignore") == 0
    table = PartialLabels.of(RawDataset.open(203).dataset_json)
    assert table.names("Organs_c1") == {"spleen"} and table.names("Organs_t0") == {"kidney"}
    assert table.names("Organs_c4") == frozenset() and table.names("Organs_c0") == {"kidney", "spleen"}
    content["partial_labels"]["cases"]["c2"] = ["left_kidney"]
    (folder / "dataset.json").write_text(json.dumps(content))
    assert merge(root, "--ignore", "--overwrite") == 1


def test_prefixes_cannot_be_confused(root):
    write_dataset(root, "Dataset031_Spleen_2", SPLEEN, seed=6)
    assert merge(root, mapping=None, ids=("9", "31")) == 0
    table = PartialLabels.of(RawDataset.open(203).dataset_json)
    assert {table.source(case) for case in RawDataset.open(203).labeled} == {"009_Spleen", "031_Spleen_2"}


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(capsys, root: Path, message: str, *options: str, **arguments) -> None:
    assert merge(root, *options, **arguments) == 1
    error = capsys.readouterr().err
    assert message in error, error
    raw = root / "nnUNet_raw"
    assert not (raw / "Dataset203_Abdomen").exists() and not list(raw.glob(".*")), "something was left behind"


@pytest.mark.parametrize(
    "mapping, options, message",
    [
        (MAP, [], "maps aorta to null, and there is no ignore label"),
        ({"9": MAP["9"]}, [], "Dataset017_Organs is named nowhere"),
        (MAP | {"Dataset009_Spleen": {}}, [], "Dataset009_Spleen is named twice"),
        (MAP | {"21": {}}, ["--ignore"], "21 is not among the data sets of -i"),
        (MAP | {"9": {"2": "spleen"}}, ["--ignore"], "Dataset009_Spleen has no class '2'. Allowed: 1 (spleen)"),
        (MAP | {"9": {}}, ["--ignore"], "has spleen, for which the map has no name"),
        (MAP | {"9": {"1": "a", "spleen": "b"}}, ["--ignore"], "'spleen' twice, by label and by name"),
        (MAP | {"9": {"1": "background"}}, ["--ignore"], 'becomes "background"'),
        (MAP | {"9": {"1": None}}, ["--ignore"], "no class of Dataset009_Spleen is wanted"),
        (MAP, ["--ignore", "-f", "9"], "would have no validation case"),
        (MAP, ["--ignore", "-f", "1"], "2 folds or more"),
        ([1], [], "allowed is an object"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(mapping, options, message, root, capsys):
    (root / "map.json").write_text(json.dumps(mapping))
    refused(capsys, root, message, *options)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channel_names": {"0": "MR"}}, "the channels are MR, in Dataset009_Spleen CT"),
        ({"file_ending": ".mha"}, "imagesTr"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1, 2]}, "its labels are regions"),
        ({"overwrite_image_reader_writer": "NibabelIO"}, "'overwrite_image_reader_writer' is NibabelIO"),
    ],
)
def test_data_sets_that_cannot_be_one_are_refused(changes, message, root, capsys):
    file = root / "nnUNet_raw" / "Dataset017_Organs" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    refused(capsys, root, message, "--ignore")


def test_all_faulty_cases_are_named_and_nothing_is_left(root, capsys):
    organs = root / "nnUNet_raw" / "Dataset017_Organs"
    write_image(np.full(SHAPE, 9, np.uint8), organs / "labelsTr" / "c1.nii.gz")
    write_image(np.zeros((5, 7, 3), np.uint8), organs / "labelsTr" / "c2.nii.gz")
    file = organs / "labelsTr" / "c3.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert merge(root, "--ignore") == 1
    error = capsys.readouterr().err
    assert "3 of 16 cases cannot be merged; nothing was written" in error
    assert "c1.nii.gz holds the code(s) 9; dataset.json names 0, 1, 2, 3, 4" in error
    assert "c2.nii.gz has shape (5, 7, 3), the image (5, 7, 6)" in error
    assert "c3.nii.gz" in error and "truncated or damaged" in error
    assert [path.name for path in sorted((root / "nnUNet_raw").iterdir())] == ["Dataset009_Spleen", "Dataset017_Organs"]


def test_an_existing_data_set_is_replaced_only_with_overwrite_and_kept_when_that_fails(root, capsys):
    assert merge(root, "--ignore") == 0
    target = root / "nnUNet_raw" / "Dataset203_Abdomen"
    assert merge(root, "--ignore") == 0 and "already holds this merge" in capsys.readouterr().out
    assert merge(root, "--ignore", "-f", "2") == 1
    assert "--overwrite" in capsys.readouterr().err
    before = (target / "dataset.json").read_text()
    (root / "nnUNet_raw" / "Dataset009_Spleen" / "labelsTr" / "c0.nii.gz").write_bytes(b"")
    assert merge(root, "--ignore", "--overwrite") == 1
    assert (target / "dataset.json").read_text() == before
    assert main(["merge", "-i", "203", "9", "-o", "203", "-name", "Abdomen", "--overwrite"]) == 1
    assert "Dataset203_Abdomen is one of the data sets to merge" in capsys.readouterr().err
    assert merge(root, ids=("9", "9"), mapping=None) == 1 and merge(root, mapping="missing.json") == 1
    (root / "nnUNet_raw" / "Dataset203_Other").mkdir()
    assert merge(root, "--ignore", "--overwrite") == 1


@pytest.mark.parametrize(
    "change_source",
    [
        lambda f: shutil.copy(f / "labelsTr" / "c1.nii.gz", f / "labelsTr" / "c0.nii.gz"),
        lambda f: shutil.copy(f / "labelsTr" / "c1.nii.gz", f / "labelsTs" / "t0.nii.gz"),
        lambda f: shutil.copy(f / "imagesTr" / "c1_0000.nii.gz", f / "imagesTr" / "c0_0000.nii.gz"),
        lambda f: [file.unlink() for file in (f / "imagesUn").iterdir()],
        lambda f: [file.unlink() for folder in ("imagesTs", "labelsTs") for file in (f / folder).iterdir()],
        lambda f: (f / "unlabeled.json").write_text(json.dumps({"format": 1, "groups": {"c0": "p", "c1": "p"}})),
    ],
    ids=["label", "test label", "image", "unlabeled image", "test image", "patient"],
)
def test_a_source_that_has_changed_is_another_request(root, capsys, change_source):
    assert merge(root, "--ignore") == 0
    change_source(root / "nnUNet_raw" / "Dataset009_Spleen")
    assert merge(root, "--ignore") == 1
    assert "their images or labels" in capsys.readouterr().err
