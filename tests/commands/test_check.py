"""`nnunet_ssl check`: leaks fail, look-alikes are found and nothing else, odd geometries are listed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnunet_ssl.cli import main
from nnunet_ssl.data.inspection import check_dataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from tests.helpers.paths import shared_dir
from tests.helpers.raw_data import phantom, use_folders, write_image, write_raw_dataset, write_split

NAME = "Dataset803_Check"
LABELED = {f"lab_{seed}": seed for seed in range(4)}
UNLABELED = {f"unl_{seed}": seed for seed in range(10, 13)}
TEST = {"tes_0": 20, "tes_1": 21}


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """A raw data set without leaks: fold 0 trains on three labeled cases and validates on lab_3."""
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / NAME
    write_raw_dataset(folder, LABELED, UNLABELED, TEST)
    write_split(folder, (["lab_0", "lab_1", "lab_2"], ["lab_3"]))
    UnlabeledList(groups={"lab_0": "p0"}).save(folder / "unlabeled.json")
    return folder


def check(*arguments: str) -> int:
    return main(["check", "-d", "803", "-np", "1", "--no_pbar", *arguments])


def report_of(raw: Path, **options):
    return check_dataset(803, 1, show_progress=False, **options)


def test_a_clean_data_set_passes_with_its_counts(raw, tmp_path, capsys):
    assert check("--json", str(tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"imagesUn": 3, "imagesTr": 4, "imagesTs": 2}
    assert report["folds"][0]["labeled"] == 3 and report["folds"][0]["unlabeled"] == 3
    assert report["leaks"] == report["near_duplicates"] == report["outliers"] == report["equal_labels"] == []
    assert report["possible_repeat_scans"] == []
    assert "No leak found." in capsys.readouterr().out


def test_labels_of_other_codes_are_refused_and_such_that_lie_elsewhere_named(raw, capsys):
    label = phantom(LABELED["lab_1"])[1]
    write_image(label, raw / "labelsTr" / "lab_1.nii.gz", spacing=(1.0, 1.0, 3.0))
    assert check() == 0
    assert "lab_1.nii.gz has the spacing 1 x 1 x 3, the other has 1 x 1 x 1" in capsys.readouterr().out
    write_image(label * 255, raw / "labelsTr" / "lab_1.nii.gz")  # as picture editors write masks
    assert check() == 1
    assert "lab_1.nii.gz holds 255; dataset.json names 0, 1. Correct one of them." in capsys.readouterr().err


@pytest.mark.parametrize("target", ["imagesTs/tes_0", "imagesTr/lab_3"])
def test_an_unlabeled_copy_of_a_test_or_validation_image_under_another_name_is_a_leak(raw, capsys, target):
    source = raw / f"{target}_0000.nii.gz"
    image = phantom({**TEST, **LABELED}[target.split("/")[1]])[0]
    write_image(image, raw / "imagesUn" / "renamed_0000.nii.gz", spacing=(0.5, 0.5, 0.5))  # the header differs too
    assert source.read_bytes() != (raw / "imagesUn" / "renamed_0000.nii.gz").read_bytes()
    assert check() == 1
    said = capsys.readouterr().out
    assert "renamed is the same image as " + target.split("/")[1] in said


def test_an_id_in_imagesun_and_imagests_is_a_leak(raw):
    write_image(phantom(70)[0], raw / "imagesUn" / "tes_1_0000.nii.gz")
    assert [leak for leak in report_of(raw).leaks if "tes_1 is the same case of the test set" in leak]
    assert check() == 1


def test_a_labeled_training_image_that_is_a_test_or_validation_image_is_a_leak(raw):
    shutil.copy(raw / "imagesTr" / "lab_0_0000.nii.gz", raw / "imagesTs" / "tes_0_0000.nii.gz")
    shutil.copy(raw / "imagesTr" / "lab_1_0000.nii.gz", raw / "imagesTr" / "lab_3_0000.nii.gz")
    leaks = "\n".join(report_of(raw).leaks)
    assert "lab_0 is the same image as tes_0 of the test set" in leaks
    assert "lab_1 is the same image as lab_3 of the validation set" in leaks


def test_an_unlabeled_copy_of_a_labeled_training_image_is_a_warning(raw):
    shutil.copy(raw / "imagesTr" / "lab_0_0000.nii.gz", raw / "imagesUn" / "unl_10_0000.nii.gz")
    report = report_of(raw)
    assert report.leaks == []
    assert any("unl_10 is the same image as lab_0 of the training set" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("groups", "side"),
    [
        ({"lab_1": "p", "lab_3": "p"}, "training and validation"),
        ({"lab_1": "p", "tes_0": "p"}, "training and test"),
    ],
)
def test_a_patient_on_both_sides_is_a_leak(raw, groups, side):
    UnlabeledList(groups=groups).save(raw / "unlabeled.json")
    (leak,) = report_of(raw).leaks
    assert side in leak and leak.endswith(": p")


@pytest.mark.parametrize("held_out", ["lab_3", "tes_0"])
def test_unlabeled_images_that_trainings_leave_out_are_counted_and_no_leak(raw, held_out):
    UnlabeledList(groups={"unl_11": "p", held_out: "p"}).save(raw / "unlabeled.json")
    report = report_of(raw)
    assert report.leaks == []
    assert report.folds[0]["unlabeled"] == 2 and report.folds[0]["left out"] == 1
    (note,) = report.notes
    assert "leave out 1 unlabeled image" in note and "unl_11" in note


def test_the_same_image_of_a_patient_who_is_known_stays_a_leak(raw):
    shutil.copy(raw / "imagesTs" / "tes_0_0000.nii.gz", raw / "imagesUn" / "unl_11_0000.nii.gz")
    UnlabeledList(groups={"unl_11": "p", "tes_0": "p"}).save(raw / "unlabeled.json")
    assert any("unl_11 is the same image as tes_0 of the test set" in leak for leak in report_of(raw).leaks)


def test_patients_of_dataset_json_are_known(raw):
    (raw / "unlabeled.json").unlink(missing_ok=True)
    file = raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": {"lab_1": "p", "lab_3": "p"}}))
    report = report_of(raw)
    (leak,) = report.leaks
    assert "training and validation" in leak and leak.endswith(": p")
    assert not any("patients with several cases" in warning for warning in report.warnings)


def test_a_patient_with_labeled_and_unlabeled_cases_is_no_leak(raw):
    UnlabeledList(groups={"unl_11": "p", "lab_1": "p"}).save(raw / "unlabeled.json")
    assert report_of(raw).leaks == []


def test_hidden_labels_count_as_unlabeled_and_must_not_validate(raw):
    write_split(raw, (["lab_0"], ["lab_3"]))
    UnlabeledList(hidden_labels={"0": ["lab_1", "lab_2"]}).save(raw / "unlabeled.json")
    report = report_of(raw)
    assert report.leaks == [] and report.folds[0]["unlabeled"] == 5
    UnlabeledList(hidden_labels={"0": ["lab_1", "lab_3"]}).save(raw / "unlabeled.json")
    assert any("lab_3 is the same case of the validation set" in leak for leak in report_of(raw).leaks)


def test_validating_on_the_training_list_is_said_and_no_leak(raw):
    write_split(raw, (list(LABELED), list(LABELED)))
    report = report_of(raw)
    assert report.leaks == []
    assert "validates on its own training cases" in report.notes[0]


def test_overlapping_lists_that_are_not_the_same_are_a_leak(raw):
    write_split(raw, (["lab_0", "lab_1", "lab_3"], ["lab_3", "lab_2"]))
    assert any("lab_3 is the same case of the validation set" in leak for leak in report_of(raw).leaks)


def test_a_cropped_and_noisy_copy_is_a_near_duplicate_and_fails_only_when_strict(raw):
    shape = (40, 48, 44)

    def anatomy(seed: int) -> np.ndarray:
        coarse = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5)
        return (100 * coarse / coarse.std() + phantom(seed, shape)[0]).astype(np.float32)

    for section, cases in (("imagesTr", LABELED), ("imagesUn", UNLABELED), ("imagesTs", TEST)):
        for case, seed in cases.items():
            write_image(anatomy(seed), raw / section / f"{case}_0000.nii.gz")
            if section != "imagesUn":
                write_image(phantom(seed, shape)[1], raw / section.replace("images", "labels") / f"{case}.nii.gz")
    noise = np.random.default_rng(0).normal(0, 2, (38, 42, 40)).astype(np.float32)
    copy = anatomy(TEST["tes_0"])[2:, 3:45, 4:] + noise
    write_image(copy, raw / "imagesUn" / "copy_0000.nii.gz")
    report = report_of(raw)
    assert [(p.case, p.other, p.crosses) for p in report.near_duplicates] == [
        ("imagesTs/tes_0", "imagesUn/copy", "training and test")
    ]
    assert report.leaks == [] and any("near-duplicates" in warning for warning in report.warnings)
    assert check() == 0
    assert check("--strict") == 1
    UnlabeledList(groups={"copy": "tes_0"}).save(raw / "unlabeled.json")
    report = report_of(raw)
    assert report.near_duplicates == [] and report.alike_within_patients >= 1
    assert report.leaks == [] and any("leave out 1 unlabeled image" in note for note in report.notes)


def test_equal_label_maps_are_found_wherever_they_lie_in_the_image(raw):
    _, label = phantom(0)
    write_image(np.roll(label, (1, -2, 1), (0, 1, 2)), raw / "labelsTs" / "tes_1.nii.gz")
    report = report_of(raw)
    assert report.equal_labels == [
        {"case": "imagesTr/lab_0", "other": "imagesTs/tes_1", "crosses": "training and test"}
    ]


def test_odd_spacing_and_size_are_listed_and_small_differences_are_not(raw):
    write_image(phantom(10)[0], raw / "imagesUn" / "unl_10_0000.nii.gz", spacing=(1.0, 1.0, 5.0))
    write_image(phantom(11, (16, 60, 20))[0], raw / "imagesUn" / "unl_11_0000.nii.gz")
    write_image(phantom(12, (18, 24, 22))[0], raw / "imagesUn" / "unl_12_0000.nii.gz", spacing=(1.1, 1.1, 1.1))
    outliers = report_of(raw).outliers
    assert [text.split(":")[0] for text in outliers] == ["imagesUn/unl_10", "imagesUn/unl_11"]
    assert "spacing 5 x 1 x 1 mm" in outliers[0] and "shape 16 x 60 x 20 voxels" in outliers[1]


def test_an_image_changed_after_the_list_was_written_is_a_warning(raw):
    assert main(["split", "-d", "803", "--labeled", "1.0", "-np", "1", "--overwrite"]) == 0
    write_image(phantom(60)[0], raw / "imagesUn" / "unl_10_0000.nii.gz")
    assert any("unl_10" in w and "--rehash" in w for w in report_of(raw).warnings)


def test_test_labels_without_an_image_are_a_warning(raw):
    shutil.copy(raw / "labelsTs" / "tes_1.nii.gz", raw / "labelsTs" / "tes_9.nii.gz")
    assert any(w.endswith("without an image in imagesTs: tes_9") for w in report_of(raw).warnings)


def test_all_damaged_images_are_named(raw, capsys):
    for case in ("unl_10", "unl_12"):
        file = raw / "imagesUn" / f"{case}_0000.nii.gz"
        file.write_bytes(file.read_bytes()[:300])
    assert check() == 1
    said = capsys.readouterr().err
    assert "unl_10_0000.nii.gz" in said and "unl_12_0000.nii.gz" in said


def test_arguments_out_of_range_are_refused(raw, capsys):
    assert check("--near_duplicate_threshold", "2") == 1
    assert check("--json", "/no/such/folder/report.json") == 1
    assert "/no/such/folder" in capsys.readouterr().err


def test_nothing_is_written(raw):
    before = {file: file.stat().st_mtime_ns for file in raw.rglob("*")}
    assert check() == 0
    assert before == {file: file.stat().st_mtime_ns for file in raw.rglob("*")}
    assert not (raw.parents[1] / "nnUNet_preprocessed" / NAME).exists()


def test_the_repeated_case_of_the_left_atrium_data_is_found_and_no_other(tmp_path, monkeypatch):
    la, duplicate = shared_dir("data", "la"), shared_dir("data", "la_duplicate")
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / NAME
    cases = [line.strip() for line in (la / "train.list").read_text().splitlines() if line.strip()][:6]
    for name in ("imagesTr", "labelsTr", "imagesUn"):
        (folder / name).mkdir(parents=True)
    for case in cases:
        (folder / "imagesTr" / f"{case}_0000.nrrd").symlink_to(la / case / "lgemri.nrrd")
        (folder / "labelsTr" / f"{case}.nrrd").symlink_to(la / case / "laendo.nrrd")
    (copied,) = (path for path in duplicate.iterdir() if path.is_dir())
    (folder / "imagesUn" / f"{copied.name}_0000.nrrd").symlink_to(copied / "lgemri.nrrd")
    dataset_json = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "atrium": 255}, "file_ending": ".nrrd"}
    (folder / "dataset.json").write_text(json.dumps(dataset_json | {"numTraining": len(cases)}))
    report = report_of(folder)
    assert [(p.case, p.other) for p in report.near_duplicates] == [
        ("imagesTr/0RZDK210BSMWAA6467LU", f"imagesUn/{copied.name}")
    ]
    # train #1 and #4 look like one person to the eye
    assert [(p.case, p.other) for p in report.possible_repeat_scans] == [
        ("imagesTr/06SR5RBREL16DQ6M8LWS", "imagesTr/1GU15S0GJ6PFNARO469W")
    ]
    assert report.leaks == []


@pytest.mark.parametrize(
    "place", ["dataset.json", "labelsTr/lab_0.nii.gz", "mine.md", "link.json", "imagesTr", "x/../y.json", ""]
)
def test_a_report_replaces_nothing_but_a_report(raw, place, capsys):
    (raw / "mine.md").write_text("notes")
    (raw / "link.json").symlink_to(raw / "dataset.json")
    before = {file: file.read_bytes() for file in raw.rglob("*") if file.is_file()}
    assert check("--json", str(raw / place) if place else "") == 1
    assert "--json" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in raw.rglob("*") if file.is_file()} == before


def test_a_report_is_replaced_by_the_next_one(raw, tmp_path):
    file = tmp_path / "report.json"
    assert check("--json", str(file)) == 0
    first = file.read_text()
    (raw / "imagesUn" / "unl_10_0000.nii.gz").unlink()
    assert check("--json", str(file)) == 0 and file.read_text() != first
