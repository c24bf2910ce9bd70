"""ACDC: the official folders, the h5 files of SSL4MIS and WSL4MIS, splits by patient; on synthetic and on real cases."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from tests.helpers.acdc_release import (
    SHAPE,
    SPACING,
    TEST,
    TRAIN,
    VALIDATION,
    arrays,
    frames_of,
    placed,
    read,
    write,
    write_h5,
    write_patient,
)
from tests.helpers.paths import shared_dir


@pytest.fixture
def official(tmp_path) -> Path:
    """Three training, one validation and one test patient of the protocol, and one of the folder `testing`."""
    folder = tmp_path / "ACDC"
    for patient in (*TRAIN, *VALIDATION, *TEST):
        write_patient(folder / "training", patient)
    write_patient(folder / "testing", "patient101", frames=(2, 9), labels=False)
    (folder / "training" / "MANDATORY_CITATION.md").write_text("cite")
    (folder / "training" / TRAIN[0] / f"._{TRAIN[0]}_frame01.nii.gz").write_text("x")
    return folder


def convert(folder: Path, *arguments: str, np: int = 1) -> int:
    return main(["convert", "ACDC", "-i", str(folder), "-np", str(np), *arguments])


@pytest.mark.parametrize("wrapper", ["", "database", "copy #2", "a_4d.nii.gz#1"])
def test_official_folders_become_a_data_set_by_the_protocol_of_ssl4mis(raw, official, capsys, wrapper):
    if wrapper:
        (official / wrapper).mkdir()
        for part in ("training", "testing"):
            (official / part).rename(official / wrapper / part)
    assert convert(official, "-d", "27", "--labeled", "2", np=2) == 0
    target = raw / "Dataset027_ACDC"
    in_tr = sorted(frames_of(TRAIN[:2]) + frames_of(VALIDATION))
    assert placed(target) == {
        "imagesTr": in_tr,
        "labelsTr": in_tr,
        "imagesUn": frames_of(TRAIN[2:]),
        "imagesTs": frames_of(TEST),
        "labelsTs": frames_of(TEST),
    }
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": frames_of(TRAIN[:2]), "val": frames_of(VALIDATION)}
    ]
    listed = UnlabeledList.load(target / "unlabeled.json")
    assert listed.groups == {f"{p}_frame{f:02d}": p for p in (*TRAIN, *VALIDATION, *TEST) for f in (1, 12)}
    description = json.loads((target / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "cineMRI"}
    assert description["labels"] == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}
    printed = capsys.readouterr().out
    assert "3 of 70 training, 1 of 10 validation and 1 of 20 test patients are present" in printed
    assert "1 patient(s) are in no list and are left out: patient101" in printed
    image, label = arrays(TRAIN[0], 12)
    for file, expected in (("imagesTr", image), ("labelsTr", label)):
        name = f"{TRAIN[0]}_frame12{'_0000' if file == 'imagesTr' else ''}.nii.gz"
        found, header = read(target / file / name)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(header.GetSpacing(), SPACING, atol=1e-6)


def test_uncompressed_nifti_is_read_too(raw, tmp_path):
    write_patient(tmp_path / "training", TRAIN[0], ending=".nii")
    assert convert(tmp_path / "training") == 0
    assert placed(raw / "Dataset027_ACDC")["imagesTr"] == frames_of(TRAIN[:1])


def test_end_diastole_need_not_be_the_first_frame(raw, tmp_path):
    write_patient(tmp_path / "training", "patient090", frames=(4, 11))
    (tmp_path / "train.list").write_text("patient090")
    assert convert(tmp_path / "training", "--split", str(tmp_path / "train.list")) == 0
    assert placed(raw / "Dataset027_ACDC")["labelsTr"] == ["patient090_frame04", "patient090_frame11"]


def test_frames_of_the_4d_image_become_unlabeled_images_of_training_patients_only(raw, tmp_path):
    for patient in (*TRAIN[:2], *VALIDATION, *TEST):
        write_patient(tmp_path / "training", patient, frames=(1, 3), number_4d=4)
    assert convert(tmp_path / "training", "--labeled", "1") == 0
    assert placed(raw / "Dataset027_ACDC")["imagesUn"] == frames_of(TRAIN[1:2], (1, 3))
    assert convert(tmp_path / "training", "--labeled", "1", "--frames_4d", "-d", "28") == 0
    target = raw / "Dataset028_ACDC"
    assert placed(target)["imagesUn"] == sorted(frames_of(TRAIN[:1], (2, 4)) + frames_of(TRAIN[1:2], (1, 2, 3, 4)))
    assert placed(target)["imagesTs"] == frames_of(TEST, (1, 3))
    listed = UnlabeledList.load(target / "unlabeled.json")
    case = f"{TRAIN[0]}_frame04"
    assert (listed.patient(case), listed.unlabeled[case].source) == (TRAIN[0], f"{TRAIN[0]}/{TRAIN[0]}_4d.nii.gz#4")
    found, header = read(target / "imagesUn" / f"{case}_0000.nii.gz")
    np.testing.assert_array_equal(found, arrays(TRAIN[0], 4)[0])
    _, reference = read(target / "imagesTr" / f"{TRAIN[0]}_frame01_0000.nii.gz")
    for get in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert get(header) == get(reference)


def test_4d_frames_that_do_not_exist_or_are_damaged_are_refused(raw, official, tmp_path, capsys):
    assert convert(official, "--frames_4d") == 1
    assert "--frames_4d: no patientXXX_4d.nii.gz" in capsys.readouterr().err
    place = write_patient(tmp_path / "other", TRAIN[0], frames=(1, 3), number_4d=4)
    damaged = place / f"{TRAIN[0]}_4d.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert convert(tmp_path / "other", "--frames_4d") == 1
    assert f"{damaged} cannot be read" in capsys.readouterr().err
    damaged.write_bytes((place / f"{TRAIN[0]}_frame01.nii.gz").read_bytes())
    assert convert(tmp_path / "other", "--frames_4d") == 1
    assert "has 3 dimensions, expected 4" in capsys.readouterr().err


def test_patients_of_the_testing_folder_serve_as_unlabeled_images_on_request(raw, official):
    assert convert(official, "--labeled", "2", "--testing_as_unlabeled") == 0
    unlabeled = placed(raw / "Dataset027_ACDC")["imagesUn"]
    assert unlabeled == sorted(frames_of(TRAIN[2:]) + frames_of(["patient101"], (2, 9)))


def test_a_frame_without_label_is_unlabeled_and_not_used_for_validation(raw, official, capsys):
    (official / "training" / TRAIN[0] / f"{TRAIN[0]}_frame12_gt.nii.gz").unlink()
    (official / "training" / VALIDATION[0] / f"{VALIDATION[0]}_frame12_gt.nii.gz").unlink()
    assert convert(official, "--labeled", "1") == 0
    target = raw / "Dataset027_ACDC"
    assert placed(target)["imagesTr"] == sorted([f"{TRAIN[0]}_frame01", f"{VALIDATION[0]}_frame01"])
    assert placed(target)["imagesUn"] == sorted([f"{TRAIN[0]}_frame12", *frames_of(TRAIN[1:])])
    assert f"have no label and are left out: {VALIDATION[0]}_frame12" in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["{}", "{}_frame01", "data/slices/{}_frame01_slice_3.h5"])
def test_lists_of_patients_frames_or_slices_are_taken_by_patient(raw, official, tmp_path, entry):
    lists = tmp_path / "lists"
    lists.mkdir()
    for part, patients in (("train_slices", TRAIN[::-1]), ("val", TEST), ("test", ["patient101"])):
        (lists / f"{part}.list").write_bytes("\r\n".join(entry.format(patient) for patient in patients).encode())
    assert convert(official, "--labeled", "1", "--split", str(lists)) == 0
    target = raw / "Dataset027_ACDC"
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": frames_of(TRAIN[2:]), "val": frames_of(TEST)}
    ]
    assert placed(target)["imagesTs"] == frames_of(["patient101"], (2, 9))
    assert placed(target)["labelsTs"] == []


def test_lists_that_name_strangers_nonsense_or_one_patient_twice_are_refused(raw, official, tmp_path, capsys):
    for text, message in (
        ("patient555_frame01", "names 1 unknown case(s): patient555"),
        ("case1", "a list names 'case1'; expected are entries like patient001"),
        (f"{TRAIN[0]}_frame01", f"case {TRAIN[0]}_frame01 is both labeled and test"),
    ):
        (tmp_path / "train.list").write_text(text)
        (tmp_path / "test.list").write_text(f"{TRAIN[0]}_frame12")
        assert convert(official, "--split", str(tmp_path / "train.list"), str(tmp_path / "test.list")) == 1
        assert message in capsys.readouterr().err


def test_labeled_counts_patients_and_may_be_a_list_of_them(raw, official, tmp_path, capsys):
    assert convert(official, "--labeled", "4") == 1
    assert "4 labeled patients were asked for, the train list has 3" in capsys.readouterr().err
    (tmp_path / "few.txt").write_text(f"{TRAIN[1]}\n")
    assert convert(official, "--labeled", str(tmp_path / "few.txt")) == 0
    split = json.loads((raw / "Dataset027_ACDC" / "splits_final.json").read_text())
    assert split[0]["train"] == frames_of(TRAIN[1:2])


def remove(name: str):
    return lambda folder: (folder / "training" / TRAIN[0] / f"{TRAIN[0]}_{name}").unlink()


def set_info(text: str):
    return lambda folder: (folder / "training" / TRAIN[0] / "Info.cfg").write_text(text)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (remove("frame01.nii.gz"), "is a label without an image"),
        (set_info("ED: 1\nES: 7\n"), "key ES names frame 7, but"),
        (set_info("ED: 1\n"), "key ES is missing, expected a frame number"),
        (set_info("ED: one\nES: 12\n"), 'key ED is "one", expected a frame number'),
        (lambda f: (f / "training" / "patient003").mkdir(), "is a patient's folder without"),
        (lambda f: write_patient(f / "copy", TRAIN[0]), f"frame {TRAIN[0]}_frame01 occurs twice"),
        (
            lambda f: write(arrays(TRAIN[0], 1)[0], f / "training" / TRAIN[0] / f"{TRAIN[0]}_frame01.nii"),
            f"frame {TRAIN[0]}_frame01 occurs twice",
        ),
        (lambda f: write_h5(f / "h5", TRAIN[0], 1, False), "mixes NIfTI files"),
    ],
    ids=["label", "ES file", "ES key", "ED key", "empty folder", "two folders", "two endings", "two forms"],
)
def test_a_folder_that_is_not_the_release_is_refused(raw, official, capsys, break_it, message):
    break_it(official)
    assert convert(official) == 1
    assert message in capsys.readouterr().err
    assert not raw.exists()


def test_faults_of_single_files_are_named_together(raw, official, capsys):
    place = official / "training"
    image = place / TRAIN[0] / f"{TRAIN[0]}_frame01.nii.gz"
    image.write_bytes(image.read_bytes()[:-100])
    label = place / TRAIN[1] / f"{TRAIN[1]}_frame12_gt.nii.gz"
    write(np.full(SHAPE, 4, np.uint8), label)
    write(np.zeros((10, 6, 8), np.uint8), place / VALIDATION[0] / f"{VALIDATION[0]}_frame01_gt.nii.gz")
    assert convert(official) == 1
    errors = capsys.readouterr().err
    assert "3 of 10 cases cannot be converted" in errors
    assert f"{image} cannot be read, it is truncated or damaged" in errors
    assert f"{label} holds the codes (4); allowed is {{0, 1, 2, 3}}" in errors
    assert f"case {VALIDATION[0]}_frame01" in errors and "shape of the label is (8, 6, 10)" in errors
    assert not list(raw.glob("*"))


def test_folders_without_frames_or_without_known_patients_are_refused(raw, tmp_path, capsys):
    (tmp_path / "some" / "where").mkdir(parents=True)
    assert convert(tmp_path / "some") == 1
    assert "no frame found" in capsys.readouterr().err
    write_patient(tmp_path / "testing", "patient101")
    assert convert(tmp_path / "testing") == 1
    assert "none of the 1 patients found (patient101) is in the standard train list" in capsys.readouterr().err


def test_spacing_is_refused_for_files_that_have_one(raw, official, capsys):
    assert convert(official, "--spacing", "1", "1", "10") == 1
    assert "--spacing is for h5 files only" in capsys.readouterr().err


# --- h5 ---------------------------------------------------------------------------------------------------------------


def test_ssl4mis_slices_are_stacked_by_number_and_volumes_are_read_as_they_are(raw, tmp_path, capsys):
    data = tmp_path / "ACDC" / "data"
    for patient in TRAIN[:2]:
        for frame in (1, 2):
            write_h5(data / "slices", patient, frame, slices=True)
    for patient in (*VALIDATION, *TEST):
        for frame in (1, 2):
            write_h5(data, patient, frame, slices=False)
            write_h5(data / "slices", patient, frame, slices=True, omit=(3,))  # the volume is complete, so it is used
    assert convert(tmp_path / "ACDC", "--labeled", "1", np=2) == 0
    target = raw / "Dataset027_ACDC"
    assert placed(target)["imagesUn"] == frames_of(TRAIN[1:2], (1, 2))
    assert placed(target)["imagesTs"] == placed(target)["labelsTs"] == frames_of(TEST, (1, 2))
    for patient, frame in ((TRAIN[0], 1), (VALIDATION[0], 2)):
        image, label = arrays(patient, frame)
        found, header = read(target / "imagesTr" / f"{patient}_frame{frame:02d}_0000.nii.gz")
        np.testing.assert_allclose(found * image.max(), image, atol=1e-3)
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{patient}_frame{frame:02d}.nii.gz")[0], label)
        assert header.GetSpacing() == (1.5, 1.5, 10.0)
    printed = capsys.readouterr().out
    assert "Warning: the h5 files carry no spacing; 1.5 x 1.5 x 10 mm" in printed
    assert "4 of 8 volumes are rebuilt from slices" in printed
    assert "first and second annotated frame, not cine positions" in printed


def test_wsl4mis_volumes_get_the_spacing_asked_for(raw, tmp_path, capsys):
    write_h5(tmp_path / "ACDC_training_volumes", TRAIN[0], 12, slices=False)
    write_h5(tmp_path / "ACDC_training_slices", TRAIN[1], 9, slices=True)
    assert convert(tmp_path, "--spacing", "1.25", "1.25", "8") == 0
    target = raw / "Dataset027_ACDC"
    assert placed(target)["imagesTr"] == sorted([f"{TRAIN[0]}_frame12", f"{TRAIN[1]}_frame09"])
    assert read(target / "labelsTr" / f"{TRAIN[0]}_frame12.nii.gz")[1].GetSpacing() == (1.25, 1.25, 8.0)
    assert "first and second annotated frame" not in capsys.readouterr().out


def test_faults_of_h5_files_are_named(raw, tmp_path, capsys):
    write_h5(tmp_path / "slices", TRAIN[0], 1, slices=True, omit=(2, 9))
    assert convert(tmp_path) == 1
    assert f"{TRAIN[0]}_frame01: slice(s) 2, 9 of 0 to 10 are missing" in capsys.readouterr().err
    write_h5(tmp_path / "slices", TRAIN[0], 1, slices=True)
    write_h5(tmp_path / "copy", TRAIN[0], 1, slices=True)
    assert convert(tmp_path) == 1
    assert f"{TRAIN[0]}_frame01_slice_0.h5 occurs twice" in capsys.readouterr().err
    for path in (tmp_path / "copy").iterdir():
        path.unlink()
    with h5py.File(tmp_path / "slices" / f"{TRAIN[0]}_frame01_slice_4.h5", "w") as file:
        file["image"] = file["label"] = np.zeros((3, 3))
    write_h5(tmp_path / "volumes", TRAIN[1], 1, slices=False)
    with h5py.File(tmp_path / "volumes" / f"{TRAIN[1]}_frame01.h5", "a") as file:
        del file["label"]
    assert convert(tmp_path) == 1
    errors = capsys.readouterr().err
    assert "slice_4.h5: key 'image' has shape (3, 3), expected (6, 8)" in errors
    assert f"{TRAIN[1]}_frame01.h5: key 'label' is missing; found image, scribble" in errors
    for arguments, message in (
        (("--frames_4d",), "hold no 4D images"),
        (("--spacing", "1", "1", "0"), "three positive"),
    ):
        assert convert(tmp_path, *arguments) == 1
        assert message in capsys.readouterr().err


# --- real cases -------------------------------------------------------------------------------------------------------


def test_real_patients_of_both_lists_convert_and_pass_the_check_of_nnunet(raw, tmp_path):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    data = shared_dir("data", "acdc", "training")
    patients = [*TRAIN[:2], "patient090", *VALIDATION]
    (tmp_path / "training").mkdir()
    for patient in patients:
        (tmp_path / "training" / patient).symlink_to(data / patient)
    assert convert(tmp_path / "training", "--labeled", "2", np=2) == 0
    target = raw / "Dataset027_ACDC"
    assert {name: len(cases) for name, cases in placed(target).items()} == {
        "imagesTr": 6,
        "labelsTr": 6,
        "imagesUn": 2,
        "imagesTs": 0,
        "labelsTs": 0,
    }
    assert placed(target)["imagesUn"] == ["patient090_frame04", "patient090_frame11"]
    verify_dataset_integrity(str(target), num_processes=1)
    original = sitk.ReadImage(str(data / "patient090" / "patient090_frame04.nii.gz"))
    found, header = read(target / "imagesUn" / "patient090_frame04_0000.nii.gz")
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(original))
    np.testing.assert_allclose(header.GetSpacing(), original.GetSpacing())


def test_real_h5_volumes_hold_the_masks_of_the_official_files(raw, tmp_path):
    official = shared_dir("data", "acdc", "training")
    assert convert(shared_dir("data", "wsl4mis_h5"), "-d", "28") == 0
    target = raw / "Dataset028_ACDC"
    cases = placed(target)["labelsTr"]
    assert cases == ["patient002_frame01", "patient021_frame01", "patient042_frame01", "patient090_frame04"]
    for case in cases:
        expected = sitk.ReadImage(str(official / case[:10] / f"{case}_gt.nii.gz"))
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz")[0], sitk.GetArrayFromImage(expected))
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(official / case[:10] / f"{case}.nii.gz"))).astype(float)
        found = read(target / "imagesTr" / f"{case}_0000.nii.gz")[0]
        # the pack restored the integers below the level at which the source had clipped
        below = found < 1
        ratio = image[below & (found > 0)] / found[below & (found > 0)]
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
