"""MSCMR with the scribbles of CycleMix, on a small synthetic copy of its folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.dataset_conversion.Dataset145_MSCMR import blank_headers, find_cases
from tests.helpers.acdc_release import placed, read

SHAPE = (4, 12, 10)  # z, y, x
SPACING = (0.73, 0.73, 5.0)
ORIGIN = (-100.0, -150.5, 30.25)
DIRECTION = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
PARTS = {"train": (2, 9, 10), "val": (1,), "TestSet": (3, 43)}


def arrays(subject: int) -> dict[str, np.ndarray]:
    """Image, mask 0-3 and scribble 0-4 (z, y, x) of a synthetic subject."""
    mask = np.zeros(SHAPE, np.int16)
    for code in (1, 2, 3):
        mask[1:3, 2:10, 2 * code : 2 * code + 2] = code
    scribble = np.full(SHAPE, 4, np.uint16)
    scribble[:, 5] = mask[:, 5]
    image = np.random.default_rng(subject).normal(100, 20, SHAPE).astype(np.float32 if subject % 2 else np.int16)
    return {"": image, "_manual": mask, "_scribble": scribble}


def write(subject: int, kind: str, folder: Path, array: np.ndarray | None = None, blank: bool = False) -> Path:
    image = sitk.GetImageFromArray(arrays(subject)[kind] if array is None else array)
    image.SetSpacing(SPACING)
    if blank:
        image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))  # the identity in NIfTI's axes
    else:
        image.SetOrigin(ORIGIN)
        image.SetDirection(DIRECTION)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"subject{subject}_DE{kind}.nii.gz"
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.fixture
def release(tmp_path) -> Path:
    """The two folders as released; the label of test subject 43 has lost its position."""
    folder = tmp_path / "CycleMix"
    for part, subjects in PARTS.items():
        for subject in subjects:
            place = folder / "MSCMR_dataset" / part
            write(subject, "", place / "images")
            write(subject, "_scribble" if part == "train" else "_manual", place / "labels", blank=subject == 43)
    for subject in PARTS["train"]:
        # a folder of that name which holds the file
        write(subject, "_scribble", folder / "MSCMR_scribbles" / f"subject{subject}_DE_scribble.nii.gz")
    return folder


def convert(folder: Path, *arguments: str) -> int:
    return main(["convert", "MSCMR", "-i", str(folder), "-np", "1", *arguments])


@pytest.mark.parametrize("part", ["", "MSCMR_dataset"])
def test_the_folders_of_cyclemix_become_a_data_set_with_scribbles(raw, release, capsys, part):
    assert convert(release / part) == 0
    target = raw / "Dataset145_MSCMR"
    assert placed(target) == {
        "imagesTr": ["subject1", "subject10", "subject2", "subject9"],
        "labelsTr": ["subject1", "subject10", "subject2", "subject9"],
        "labelsTr_dense": ["subject1"],
        "imagesUn": [],
        "imagesTs": ["subject3", "subject43"],
        "labelsTs": ["subject3", "subject43"],
    }
    assert load_splits(target / "splits_final.json") == [
        {"train": ["subject10", "subject2", "subject9"], "val": ["subject1"]}
    ]
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3, "ignore": 4}
    for folder, subject, kind in (
        ("labelsTr", 10, "_scribble"),
        ("labelsTr", 1, "_manual"),
        ("labelsTr_dense", 1, "_manual"),
        ("labelsTs", 43, "_manual"),
    ):
        found, header = read(target / folder / f"subject{subject}.nii.gz")
        np.testing.assert_array_equal(found, arrays(subject)[kind])
        np.testing.assert_allclose(header.GetOrigin(), ORIGIN, atol=1e-4)
        np.testing.assert_allclose(header.GetDirection(), DIRECTION, atol=1e-6)
    printed = capsys.readouterr().out
    assert "3 of 25 training, 1 of 5 validation and 2 of 15 test subjects are present" in printed
    assert "1 label(s) have lost their position" in printed and "subject43_DE_manual.nii.gz" in printed
    assert "1 validation case(s) have no sparse label; labelsTr holds their dense mask: subject1" in printed
    assert "3 case(s) of imagesTr have no dense mask" in printed
    assert "annotated   8.33 % of the voxels of 3 sparse labels" in printed


def test_a_budget_takes_the_lowest_numbers_and_leaves_the_others_unlabeled(raw, release):
    (release / "MSCMR_dataset" / "train" / "labels" / "subject10_DE_scribble.nii.gz").unlink()
    shutil.rmtree(release / "MSCMR_scribbles" / "subject10_DE_scribble.nii.gz")
    assert convert(release, "--labeled", "2") == 0
    target = raw / "Dataset145_MSCMR"
    assert placed(target)["imagesUn"] == ["subject10"]
    assert load_splits(target / "splits_final.json")[0]["train"] == ["subject2", "subject9"]


def test_scribbles_may_lie_in_a_folder_of_their_own(raw, release, capsys):
    shutil.rmtree(release / "MSCMR_dataset" / "train" / "labels")
    assert convert(release / "MSCMR_dataset", "--labeled", "3") == 1
    assert "the train list has 0 with a label" in capsys.readouterr().err
    assert convert(release / "MSCMR_dataset") == 1
    missing = "subject2, subject9, subject10"
    assert f"have no sparse label (subjectN_DE_scribble.nii.gz): {missing}" in capsys.readouterr().err
    assert convert(release / "MSCMR_dataset", "--scribbles", str(release / "MSCMR_scribbles")) == 0
    np.testing.assert_array_equal(
        read(raw / "Dataset145_MSCMR" / "labelsTr" / "subject9.nii.gz")[0], arrays(9)["_scribble"]
    )


def test_lists_of_subjects_and_masks_of_training_subjects_are_used(raw, release, tmp_path):
    write(2, "_manual", release / "MSCMR_dataset" / "train" / "labels")
    (tmp_path / "train.list").write_text("subject2_DE\n")
    (tmp_path / "val.list").write_text("subject9\n")
    (tmp_path / "test.list").write_text("subject1\nsubject3\n")
    lists = [str(tmp_path / f"{part}.list") for part in ("train", "val", "test")]
    assert convert(release, "--split", *lists) == 0
    target = raw / "Dataset145_MSCMR"
    assert load_splits(target / "splits_final.json") == [{"train": ["subject2"], "val": ["subject9"]}]
    assert placed(target)["labelsTr_dense"] == ["subject2"]
    assert placed(target)["labelsTs"] == ["subject1", "subject3"]


def test_only_a_header_that_says_nothing_is_replaced(release):
    cases, _ = find_cases(release, None)
    folder = release / "MSCMR_dataset" / "TestSet" / "labels"
    mask = folder / "subject43_DE_manual.nii.gz"
    assert blank_headers(cases) == {mask}
    image = sitk.ReadImage(str(mask))
    for direction, origin, found in (
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 0), {mask}),  # the identity in ITK's axes
        ((1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 0, 0), set()),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 0, 1), set()),
    ):
        image.SetDirection(direction)
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(mask))
        assert blank_headers(cases) == found


def move_mask(release: Path) -> None:
    file = release / "MSCMR_dataset" / "TestSet" / "labels" / "subject3_DE_manual.nii.gz"
    image = sitk.ReadImage(str(file))
    image.SetOrigin((5.0, 0.0, 0.0))
    sitk.WriteImage(image, str(file))


def rewrite(part: str, subject: int, kind: str, array: np.ndarray, blank: bool = False):
    return lambda release: write(subject, kind, release / "MSCMR_dataset" / part / "labels", array, blank)


BROKEN = {
    "position": (move_mask, "origin of the dense mask"),
    "shape": (rewrite("TestSet", 43, "_manual", np.zeros((3, 12, 10), np.int16), True), "shape of the dense mask"),
    "two scribbles": (rewrite("train", 2, "_scribble", np.full(SHAPE, 1, np.uint16)), "differ, but are the same label"),
    "codes": (
        rewrite("val", 1, "_manual", np.full(SHAPE, 200, np.int16)),
        "subject1_DE_manual.nii.gz holds the codes (200); allowed is {0, 1, 2, 3}",
    ),
    "no image": (
        lambda release: (release / "MSCMR_dataset" / "train" / "images" / "subject9_DE.nii.gz").unlink(),
        "is a label without an image",
    ),
    "two images": (
        lambda release: write(2, "", release / "MSCMR_dataset" / "val" / "images"),
        "subject2_DE.nii.gz occurs twice",
    ),
    "folder": (lambda release: write(4, "", release), "lies in none of the folders train, val and TestSet"),
    "nothing": (lambda release: [shutil.rmtree(path) for path in release.glob("*/*/images")], "no image found"),
}


@pytest.mark.parametrize("break_it, message", BROKEN.values(), ids=BROKEN)
def test_folders_that_are_not_the_release_are_refused(raw, release, capsys, break_it, message):
    break_it(release)
    assert convert(release) == 1
    assert message in capsys.readouterr().err
    assert not list(raw.glob("*"))


def test_lists_of_something_else_are_refused(raw, release, tmp_path, capsys):
    (tmp_path / "train.list").write_text("case7\n")
    assert convert(release, "--split", str(tmp_path / "train.list")) == 1
    assert "a list names 'case7'; expected are entries like subject13" in capsys.readouterr().err
    (tmp_path / "train.list").write_text("subject7\n")
    assert convert(release, "--split", str(tmp_path / "train.list")) == 1
    assert "names 1 unknown case(s): subject7" in capsys.readouterr().err
