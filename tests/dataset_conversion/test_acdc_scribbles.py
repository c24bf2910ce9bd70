"""ACDC with scribbles, from NIfTI and from the h5 files of WSL4MIS; on synthetic and on real cases."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.dataset_conversion.reading import read_geometry
from tests.helpers.acdc_release import (
    SHAPE,
    SPACING,
    TEST,
    TRAIN,
    VALIDATION,
    arrays,
    convert,
    convert_scribbles,
    frames_of,
    placed,
    read,
    scribble,
    write,
    write_h5,
    write_patient,
    write_scribbles,
)
from tests.helpers.paths import shared_dir

ALL = (*TRAIN, *VALIDATION, *TEST)


@pytest.fixture
def release(tmp_path) -> Path:
    """`ACDC/training` with three training, one validation and one test patient, and `acdc_scribbles` as unpacked."""
    for patient in ALL:
        write_patient(tmp_path / "ACDC" / "training", patient)
        write_scribbles(tmp_path / "acdc_scribbles", patient)
    leftovers = tmp_path / "acdc_scribbles" / "__MACOSX"
    leftovers.mkdir()
    for folder in (leftovers, tmp_path / "acdc_scribbles"):
        (folder / f"._{TRAIN[0]}_frame01_scribble.nii.gz").write_text("x")
    (leftovers / f"{TRAIN[0]}_frame01_scribble.nii.gz").write_text("x")
    return tmp_path


def scribble_file(release: Path, patient: str, frame: int) -> Path:
    return release / "acdc_scribbles" / f"{patient}_frame{frame:02d}_scribble.nii.gz"


def case_files(target: Path, folder: str) -> dict[str, np.ndarray]:
    return {path.name.removesuffix(".nii.gz"): read(path)[0] for path in sorted((target / folder).iterdir())}


# --- the public release -----------------------------------------------------------------------------------------------


def test_scribbles_become_labels_with_the_ignore_label_and_masks_lie_beside_them(raw, release, capsys):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    wrong = scribble(TRAIN[1], 12)
    wrong[5, 2, 2:4] = 3  # two voxels of the right ventricle called left ventricle
    write(wrong, scribble_file(release, TRAIN[1], 12))
    assert convert_scribbles(release, "--labeled", "2") == 0
    target = raw / "Dataset027_ACDC"
    in_tr = sorted(frames_of(TRAIN[:2]) + frames_of(VALIDATION))
    assert placed(target) == {
        "imagesTr": in_tr,
        "labelsTr": in_tr,
        "labelsTr_dense": in_tr,
        "imagesUn": frames_of(TRAIN[2:]),
        "imagesTs": frames_of(TEST),
        "labelsTs": frames_of(TEST),
    }
    assert load_splits(target / "splits_final.json") == [{"train": frames_of(TRAIN[:2]), "val": frames_of(VALIDATION)}]
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3, "ignore": 4}
    assert description["numTraining"] == 6
    for case, found in case_files(target, "labelsTr").items():
        expected = wrong if case == f"{TRAIN[1]}_frame12" else scribble(case[:10], int(case[-2:]))
        np.testing.assert_array_equal(found, expected)
    for folder in ("labelsTr_dense", "labelsTs"):
        for case, found in case_files(target, folder).items():
            np.testing.assert_array_equal(found, arrays(case[:10], int(case[-2:]))[1])
    header = read(target / "labelsTr" / f"{TRAIN[0]}_frame01.nii.gz")[1]
    np.testing.assert_allclose(header.GetSpacing(), SPACING, atol=1e-6)
    verify_dataset_integrity(str(target), num_processes=1)
    printed = capsys.readouterr().out
    # one row of six is a stroke: 16.67 % of the voxels, 88 of 528; two of them are wrong
    assert "annotated   16.67 % of the voxels of 6 sparse labels (16.67 to 16.67 %)" in printed
    assert "6 masks in labelsTr_dense, for validation only" in printed
    assert (
        f"5 of 6 sparse labels agree with the mask on every annotated voxel; at most 2.27 % of them differ ({TRAIN[1]}"
        in printed
    )
    assert "without any foreground" not in printed


def test_nnunet_reads_the_ignore_label(raw, release):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    assert convert_scribbles(release) == 0
    description = json.loads((raw / "Dataset027_ACDC" / "dataset.json").read_text())
    manager = PlansManager({"label_manager": "LabelManager", "configurations": {}}).get_label_manager(description)
    assert (manager.has_ignore_label, manager.ignore_label, manager.num_segmentation_heads) == (True, 4, 4)


def test_scribbles_may_lie_in_the_folders_of_the_patients(raw, release):
    for file in (release / "acdc_scribbles").glob("patient*"):
        file.rename(release / "ACDC" / "training" / file.name[:10] / file.name)
    assert convert(release, "--scribbles") == 0
    cases = sorted(frames_of(TRAIN) + frames_of(VALIDATION))
    assert placed(raw / "Dataset027_ACDC")["labelsTr_dense"] == cases


def test_without_the_option_scribbles_beside_the_images_are_not_used(raw, release):
    write_scribbles(release / "ACDC" / "training" / TRAIN[0], TRAIN[0])
    assert convert(release) == 0
    target = raw / "Dataset027_ACDC"
    assert "ignore" not in json.loads((target / "dataset.json").read_text())["labels"]
    assert "labelsTr_dense" not in placed(target)
    assert not (target / "labelsTr_dense").exists()


def test_training_cases_without_scribble_are_named(raw, release, capsys):
    scribble_file(release, TRAIN[0], 12).unlink()
    scribble_file(release, TRAIN[2], 1).unlink()
    assert convert_scribbles(release) == 1
    errors = capsys.readouterr().err
    assert (
        f"2 training case(s) have no sparse label (patientXXX_frameYY_scribble.nii.gz): {TRAIN[0]}_frame12, {TRAIN[2]}_frame01"
        in errors
    )
    assert "--labeled N" in errors
    assert not list(raw.glob("*"))


def test_with_a_budget_only_the_labeled_patients_need_scribbles_and_no_other_label_is_opened(raw, release, capsys):
    for file in (release / "acdc_scribbles").glob(f"{TRAIN[1]}*"):
        file.unlink()
    for file in [
        *(release / "acdc_scribbles").glob(f"{TRAIN[2]}*"),
        *(release / "ACDC" / "training" / TRAIN[2]).glob("*_gt*"),
    ]:
        file.write_text("not to be read")
    assert convert_scribbles(release, "--labeled", "1") == 0
    target = raw / "Dataset027_ACDC"
    assert placed(target)["imagesUn"] == frames_of(TRAIN[1:])
    assert placed(target)["labelsTr_dense"] == sorted(frames_of(TRAIN[:1]) + frames_of(VALIDATION))
    assert set(UnlabeledList.load(target / "unlabeled.json").unlabeled) == set(frames_of(TRAIN[1:]))
    # one frame of a labeled patient without scribble is a fault even then
    scribble_file(release, TRAIN[0], 1).unlink()
    assert convert_scribbles(release, "--labeled", "1", "-d", "28") == 1
    assert (
        f"1 training case(s) have no sparse label (patientXXX_frameYY_scribble.nii.gz): {TRAIN[0]}_frame01"
        in capsys.readouterr().err
    )


def test_a_validation_case_without_scribble_keeps_its_mask_and_one_without_mask_its_scribble(raw, release, capsys):
    scribble_file(release, VALIDATION[0], 1).unlink()
    for patient in (VALIDATION[0], TRAIN[0]):
        (release / "ACDC" / "training" / patient / f"{patient}_frame12_gt.nii.gz").unlink()
    assert convert_scribbles(release) == 0
    target = raw / "Dataset027_ACDC"
    labels, dense = case_files(target, "labelsTr"), case_files(target, "labelsTr_dense")
    case = f"{VALIDATION[0]}_frame01"
    np.testing.assert_array_equal(labels[case], arrays(VALIDATION[0], 1)[1])
    np.testing.assert_array_equal(dense[case], labels[case])
    case = f"{VALIDATION[0]}_frame12"
    np.testing.assert_array_equal(labels[case], scribble(VALIDATION[0], 12))
    assert set(dense) == set(labels) - {case, f"{TRAIN[0]}_frame12"}
    printed = capsys.readouterr().out
    assert (
        f"1 validation case(s) have no sparse label; labelsTr holds their dense mask: {VALIDATION[0]}_frame01"
        in printed
    )
    assert "2 case(s) of imagesTr have no dense mask" in printed
    assert "6 masks in labelsTr_dense" in printed


def test_frames_of_the_4d_image_need_no_scribble(raw, release):
    write_patient(release / "ACDC" / "more", "patient004", frames=(1, 3), number_4d=4)
    write_scribbles(release / "acdc_scribbles", "patient004", (1, 3))
    (release / "train.list").write_text("patient004")
    assert convert_scribbles(release, "--frames_4d", "--split", str(release / "train.list")) == 0
    assert placed(raw / "Dataset027_ACDC")["imagesUn"] == frames_of(["patient004"], (2, 4))
    assert placed(raw / "Dataset027_ACDC")["labelsTr"] == frames_of(["patient004"], (1, 3))


@pytest.mark.parametrize(
    "array, spacing, message",
    [
        (np.full((10, 6, 8), 4, np.uint16), SPACING, "shape of the label {} is (8, 6, 10), that of the image cineMRI"),
        (scribble(TRAIN[0], 1), (1.4, 1.4, 5.0), "spacing of the label {} is (1.4, 1.4, 5)"),
        (np.where(scribble(TRAIN[0], 1) == 4, 255, 1).astype(np.uint16), SPACING, "label {} holds the codes (1, 255); allowed is"),
    ],
    ids=["shape", "spacing", "codes"],
)  # fmt: skip
def test_a_scribble_of_another_geometry_or_with_other_codes_is_refused_by_name(
    raw, release, capsys, array, spacing, message
):
    file = scribble_file(release, TRAIN[0], 1)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))
    assert convert_scribbles(release) == 1
    errors = capsys.readouterr().err
    assert message.format(file) in errors and "1 of 10 cases cannot be converted" in errors
    assert not list(raw.glob("*"))


def test_a_mask_with_the_code_of_scribbles_is_refused(raw, release, capsys):
    mask = release / "ACDC" / "training" / TRAIN[0] / f"{TRAIN[0]}_frame01_gt.nii.gz"
    write(scribble(TRAIN[0], 1), mask)
    assert convert_scribbles(release) == 1
    assert f"label {mask} holds the codes (0, 1, 2, 3, 4); allowed is {{0, 1, 2, 3}}" in capsys.readouterr().err


def test_dense_masks_given_as_scribbles_are_refused_and_an_empty_scribble_is_mentioned(raw, release, capsys):
    for patient in ALL:
        for frame in (1, 12):
            write(arrays(patient, frame)[1], scribble_file(release, patient, frame))
    assert convert_scribbles(release) == 1
    assert (
        "none of the 8 sparse labels has a voxel of the code 4, which marks what is not annotated"
        in capsys.readouterr().err
    )
    assert not list(raw.glob("*"))
    write(np.full(SHAPE, 4, np.uint16), scribble_file(release, TRAIN[0], 1))
    assert convert_scribbles(release) == 0
    printed = capsys.readouterr().out
    assert f"Warning: 1 label(s) without any annotated voxel: {TRAIN[0]}_frame01." in printed
    assert f"Warning: 1 label(s) without any foreground: {TRAIN[0]}_frame01." in printed


def test_folders_that_are_not_the_scribble_release_are_refused(raw, release, capsys):
    assert convert(release, "--scribbles", str(release / "nowhere")) == 1
    assert f"{release / 'nowhere'}: found nothing, expected a folder" in capsys.readouterr().err
    assert convert(release, "--scribbles") == 1
    assert "no patientXXX_frameYY_scribble.nii.gz found at any depth" in capsys.readouterr().err
    write_scribbles(release / "acdc_scribbles" / "copy", TRAIN[0], (12,))
    assert convert_scribbles(release) == 1
    assert f"the scribble of {TRAIN[0]}_frame12 occurs twice" in capsys.readouterr().err


def test_scribbles_of_other_patients_are_counted_and_not_used(raw, release, capsys):
    write_scribbles(release / "acdc_scribbles", "patient002", (1,))
    assert convert_scribbles(release) == 0
    assert "1 scribble(s) have no image below" in capsys.readouterr().out


def test_another_folder_of_scribbles_is_another_conversion(raw, release, capsys):
    assert convert_scribbles(release) == 0
    assert convert_scribbles(release) == 0
    assert "already holds this conversion" in capsys.readouterr().out
    (release / "acdc_scribbles").rename(release / "corrected")
    assert convert(release, "--scribbles", str(release / "corrected")) == 1
    assert "holds another conversion" in capsys.readouterr().err
    assert convert(release) == 1


# --- the h5 files of WSL4MIS ------------------------------------------------------------------------------------------


@pytest.fixture
def wsl(tmp_path) -> Path:
    """Volumes with some of their slices, as they are redistributed, and headers with the true geometry."""
    for patient in (*TRAIN[:2], *VALIDATION):
        write_h5(tmp_path / "h5" / "ACDC_training_volumes", patient, 12, slices=False)
        write_h5(tmp_path / "h5" / "ACDC_training_slices", patient, 12, slices=True, omit=(3, 7))
        write_scribbles(tmp_path / "headers", patient, (12,))
    return tmp_path


def convert_h5(wsl: Path, *arguments: str) -> int:
    return main(["convert", "ACDC", "-i", str(wsl / "h5"), "-np", "1", "--scribbles", *arguments])


def test_h5_volumes_with_scribbles_take_the_geometry_of_the_headers(raw, wsl, capsys):
    for file in (wsl / "headers").iterdir():
        image = sitk.ReadImage(str(file))
        image.SetOrigin((1.0, -2.0, 3.5))
        sitk.WriteImage(image, str(file))
    assert convert_h5(wsl, "--headers", str(wsl / "headers")) == 0
    target = raw / "Dataset027_ACDC"
    cases = sorted(f"{patient}_frame12" for patient in (*TRAIN[:2], *VALIDATION))
    assert placed(target)["labelsTr"] == placed(target)["labelsTr_dense"] == cases
    for case in cases:
        label, header = read(target / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(label, scribble(case[:10], 12))
        np.testing.assert_array_equal(read(target / "labelsTr_dense" / f"{case}.nii.gz")[0], arrays(case[:10], 12)[1])
        np.testing.assert_allclose(header.GetSpacing(), SPACING, atol=1e-6)
        np.testing.assert_allclose(header.GetOrigin(), (1.0, -2.0, 3.5), atol=1e-6)
    printed = capsys.readouterr().out
    assert "the geometry of 3 frames is that of the headers in" in printed and "Warning: the h5" not in printed
    assert json.loads((target / "dataset.json").read_text())["nnunet_ssl"]["spacing"] == "of the headers"


def test_the_spacing_of_h5_files_with_scribbles_is_never_guessed(raw, wsl, capsys):
    assert convert_h5(wsl) == 1
    assert "Give --headers with the folder" in capsys.readouterr().err
    assert convert_h5(wsl, "--spacing", "1.5", "1.5", "10", "--headers", str(wsl / "headers")) == 1
    assert "both say how large voxels are" in capsys.readouterr().err
    assert convert_h5(wsl, "--spacing", "1.25", "1.25", "8") == 0
    target = raw / "Dataset027_ACDC"
    assert read(target / "labelsTr_dense" / f"{TRAIN[0]}_frame12.nii.gz")[1].GetSpacing() == (1.25, 1.25, 8.0)


def test_headers_of_other_scans_are_refused(raw, wsl, capsys):
    (wsl / "headers" / f"{TRAIN[0]}_frame12_scribble.nii.gz").rename(
        wsl / "headers" / f"{TRAIN[0]}_frame01_scribble.nii.gz"
    )
    assert convert_h5(wsl, "--headers", str(wsl / "headers")) == 1
    assert f"for 1 of 3 frames: {TRAIN[0]}_frame12" in capsys.readouterr().err
    # an image's header goes before a scribble's
    write(np.zeros((9, 6, 8), np.int16), wsl / "headers" / f"{TRAIN[0]}_frame12.nii.gz")
    write(np.zeros(SHAPE, np.uint8), wsl / "headers" / f"{TRAIN[0]}_frame12_gt.nii.gz")
    assert convert_h5(wsl, "--headers", str(wsl / "headers")) == 1
    errors = capsys.readouterr().err
    assert "has the size (8, 6, 11) (x, y, z), the header of" in errors and "says (8, 6, 9)" in errors
    (wsl / "headers" / f"{TRAIN[0]}_frame12.nii.gz").unlink()
    assert convert_h5(wsl, "--headers", str(wsl / "headers")) == 0


def test_slices_beside_a_volume_must_be_its_cuts(raw, wsl, capsys):
    changed = wsl / "h5" / "ACDC_training_slices" / f"{TRAIN[0]}_frame12_slice_10.h5"
    for key in ("image", "label", "scribble"):
        before = changed.read_bytes()
        with h5py.File(changed, "a") as file:
            file[key][0, 0] = 3
        assert convert_h5(wsl, "--spacing", "1", "1", "8") == 1
        assert f"{changed}: key '{key}' differs from slice 10 (from 0) of" in capsys.readouterr().err
        changed.write_bytes(before)
    changed.rename(changed.with_name(f"{TRAIN[0]}_frame12_slice_11.h5"))
    assert convert_h5(wsl, "--spacing", "1", "1", "8") == 1
    assert "which has 11 slices" in capsys.readouterr().err


def test_a_volume_is_assembled_from_slices_where_its_file_is_missing(raw, wsl, capsys):
    (wsl / "h5" / "ACDC_training_volumes" / f"{TRAIN[0]}_frame12.h5").unlink()
    assert convert_h5(wsl, "--spacing", "1", "1", "8") == 1
    assert f"{TRAIN[0]}_frame12: slice(s) 3, 7 of 0 to 10 are missing" in capsys.readouterr().err
    write_h5(wsl / "h5" / "ACDC_training_slices", TRAIN[0], 12, slices=True)
    assert convert_h5(wsl, "--spacing", "1", "1", "8") == 0
    target = raw / "Dataset027_ACDC"
    np.testing.assert_array_equal(read(target / "labelsTr" / f"{TRAIN[0]}_frame12.nii.gz")[0], scribble(TRAIN[0], 12))
    np.testing.assert_array_equal(
        read(target / "labelsTr_dense" / f"{TRAIN[0]}_frame12.nii.gz")[0], arrays(TRAIN[0], 12)[1]
    )


def test_h5_files_without_scribbles_and_a_folder_of_scribbles_for_h5_files_are_refused(raw, wsl, capsys):
    assert (
        main(
            ["convert", "ACDC", "-i", str(wsl / "h5"), "--scribbles", str(wsl / "headers"), "--spacing", "1", "1", "1"]
        )
        == 1
    )
    assert "hold scribbles themselves, under the key 'scribble'" in capsys.readouterr().err
    with h5py.File(wsl / "h5" / "ACDC_training_volumes" / f"{TRAIN[0]}_frame12.h5", "a") as file:
        del file["scribble"]
    assert convert_h5(wsl, "--spacing", "1", "1", "8") == 1
    assert "key 'scribble' is missing; found image, label" in capsys.readouterr().err


def test_headers_are_refused_for_files_that_have_their_own(raw, release, capsys):
    assert convert_scribbles(release, "--headers", str(release)) == 1
    assert "--headers is for h5 files only" in capsys.readouterr().err


# --- real cases -------------------------------------------------------------------------------------------------------


def test_real_scribbles_and_masks_convert_by_the_folds_of_wsl4mis(raw, tmp_path, capsys):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    data, scribbles = shared_dir("data", "acdc", "training"), shared_dir("data", "acdc_scribbles")
    patients = ["patient002", "patient021", "patient042", "patient090"]  # folds 0, 1, 2 and 4
    for patient in patients:
        (tmp_path / "ACDC").mkdir(exist_ok=True)
        (tmp_path / "ACDC" / patient).symlink_to(data / patient)
    arguments = ["convert", "ACDC", "-i", str(tmp_path / "ACDC"), "-np", "1", "--scribbles", str(scribbles)]
    assert main([*arguments, "--split_patients", "wsl4mis"]) == 1
    assert "one side of fold 3 (patient061 to patient080)" in capsys.readouterr().err
    (tmp_path / "ACDC" / "patient062").symlink_to(data / "patient062")
    assert main([*arguments, "--split_patients", "wsl4mis"]) == 0
    target = raw / "Dataset027_ACDC"
    verify_dataset_integrity(str(target), num_processes=1)
    splits = load_splits(target / "splits_final.json")
    assert [{case[:10] for case in split["val"]} for split in splits] == [
        {p} for p in sorted([*patients, "patient062"])
    ]
    cases = placed(target)["labelsTr"]
    assert len(cases) == 10 and placed(target)["labelsTr_dense"] == cases
    for case in cases[:3]:
        expected, header = read(scribbles / f"{case}_scribble.nii.gz")
        found, found_header = read(target / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found_header.GetSpacing(), header.GetSpacing())
        mask = read(data / case[:10] / f"{case}_gt.nii.gz")[0]
        np.testing.assert_array_equal(read(target / "labelsTr_dense" / f"{case}.nii.gz")[0], mask)
        annotated = expected != 4
        assert 0.002 < annotated.mean() < 0.05
        assert (expected != mask)[annotated].mean() <= 0.003


def test_real_h5_scribbles_are_those_of_the_public_release(raw):
    scribbles = shared_dir("data", "acdc_scribbles")
    arguments = ["convert", "ACDC", "-i", str(shared_dir("data", "wsl4mis_h5")), "-np", "1", "--scribbles"]
    assert main([*arguments, "--headers", str(scribbles)]) == 0
    target = raw / "Dataset027_ACDC"
    cases = placed(target)["labelsTr"]
    assert cases == ["patient002_frame01", "patient021_frame01", "patient042_frame01", "patient090_frame04"]
    for case in cases:
        file = scribbles / f"{case}_scribble.nii.gz"
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz")[0], read(file)[0])
        found, expected = read_geometry(target / "imagesTr" / f"{case}_0000.nii.gz"), read_geometry(file)
        np.testing.assert_allclose(found.spacing, expected.spacing, rtol=1e-6)
        assert found.size == expected.size
