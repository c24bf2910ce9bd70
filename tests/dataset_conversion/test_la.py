"""LA: the challenge's archive and the h5 re-release, the lists, the spacing; on synthetic cases and on the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.dataset_conversion.case_lists import shipped_list
from tests.helpers.paths import shared_dir

TRAIN, TEST = shipped_list("la_train80.list")[:5], shipped_list("la_test20.list")[:2]
SHAPE = (5, 7, 6)  # z, y, x


def arrays(case_id: str, foreground: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Image (z, y, x) uint8 and mask of a synthetic case."""
    rng = np.random.default_rng(sum(map(ord, case_id)))
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 2:5, 1:4] = foreground
    return rng.integers(0, 256, SHAPE).astype(np.uint8), mask


def write_nrrd(folder: Path, case_id: str, spacing=(1.0, 1.0, 1.0), mask_spacing=None, with_mask=True, foreground=255):
    (folder / case_id).mkdir(parents=True)
    named = zip(("lgemri.nrrd", "laendo.nrrd"), arrays(case_id, foreground), (spacing, mask_spacing or spacing))
    for name, array, mm in list(named)[: 2 if with_mask else 1]:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(mm)
        sitk.WriteImage(image, str(folder / case_id / name), useCompression=True)


def write_h5(folder: Path, case_id: str):
    (folder / case_id).mkdir(parents=True)
    image, mask = arrays(case_id, 1)
    with h5py.File(folder / case_id / "mri_norm2.h5", "w") as file:
        # (x, y, z), z-scored, as the re-release
        file["image"] = ((image.astype(np.float32) - image.mean()) / image.std()).transpose(2, 1, 0)
        file["label"] = mask.transpose(2, 1, 0)


@pytest.fixture
def archive(tmp_path) -> Path:
    """The challenge's archive: 5 training and 2 test cases of the literature, one case of its own Testing Set."""
    folder = tmp_path / "2018_LA"
    for case_id in (*TRAIN, *TEST):
        write_nrrd(folder / "Training Set", case_id)
    write_nrrd(folder / "Testing Set", "Z" * 20)
    (folder / "Training Set" / TRAIN[1] / "desktop.ini").write_text("x")
    (folder / "__MACOSX" / TRAIN[1]).mkdir(parents=True)
    (folder / "__MACOSX" / TRAIN[1] / "lgemri.nrrd").write_text("x")
    (folder / "Training Set" / TRAIN[2] / "._lgemri.nrrd").write_text("x")
    return folder


def convert(folder: Path, *arguments: str, np: int = 1) -> int:
    return main(["convert", "LA", "-i", str(folder), "-np", str(np), *arguments])


def read(path: Path) -> tuple[np.ndarray, sitk.Image]:
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), image


def placed(target: Path) -> dict[str, list[str]]:
    folders = ("imagesTr", "labelsTr", "imagesUn", "imagesTs", "labelsTs")
    return {
        name: sorted(path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in (target / name).glob("*"))
        for name in folders
    }


def test_the_archive_becomes_a_data_set_by_the_protocol_of_the_literature(raw, archive, capsys):
    assert convert(archive, "-d", "101", "--labeled", "2", np=2) == 0
    target = raw / "Dataset101_LA"
    assert placed(target) == {
        "imagesTr": sorted(TRAIN[:2]),
        "labelsTr": sorted(TRAIN[:2]),
        "imagesUn": sorted(TRAIN[2:]),
        "imagesTs": sorted(TEST),
        "labelsTs": sorted(TEST),
    }
    assert json.loads((target / "splits_final.json").read_text()) == [
        {"train": sorted(TRAIN[:2]), "val": sorted(TRAIN[:2])}
    ]
    printed = capsys.readouterr().out
    assert "standard lists: 5 of 80 training and 2 of 20 test cases are present" in printed
    assert "8 of 8 headers say spacing 1 1 1" in printed and "0.625 x 0.625 x 0.625 mm" in printed
    assert f"1 case(s) are in no list and are left out: {'Z' * 20}" in printed
    listed = UnlabeledList.load(target / "unlabeled.json")
    assert listed.unlabeled[TRAIN[3]].source == f"Training Set/{TRAIN[3]}/lgemri.nrrd"


def test_voxels_are_kept_and_unit_headers_get_the_published_spacing(raw, archive):
    convert(archive, "--labeled", "2")
    image, mask = arrays(TRAIN[0])
    for path, expected in (("imagesTr", image), ("labelsTr", mask // 255)):
        name = f"{TRAIN[0]}{'_0000' if path == 'imagesTr' else ''}.nii.gz"
        found, header = read(raw / "Dataset101_LA" / path / name)
        np.testing.assert_array_equal(found, expected)
        assert header.GetSpacing() == (0.625, 0.625, 0.625)


def test_a_header_with_a_real_spacing_is_kept_and_the_option_sets_the_others(raw, tmp_path):
    folder = tmp_path / "LA"
    for number, case_id in enumerate(TRAIN[:3]):
        write_nrrd(folder, case_id, spacing=(0.7, 0.7, 1.4) if number == 0 else (1.0, 1.0, 1.0))
    assert convert(folder, "--spacing", "0.5", "0.5", "2", "-name", "Other") == 0
    headers = [read(raw / "Dataset101_Other" / "labelsTr" / f"{case_id}.nii.gz")[1] for case_id in TRAIN[:2]]
    np.testing.assert_allclose(headers[0].GetSpacing(), (0.7, 0.7, 1.4), atol=1e-6)
    np.testing.assert_allclose(headers[1].GetSpacing(), (0.5, 0.5, 2.0), atol=1e-6)


def test_a_unit_header_of_the_mask_alone_gets_no_help(raw, tmp_path, capsys):
    write_nrrd(tmp_path / "LA", TRAIN[0], spacing=(0.7, 0.7, 0.7), mask_spacing=(1.0, 1.0, 1.0))
    assert convert(tmp_path / "LA") == 1
    assert "spacing of the label is (0.625, 0.625, 0.625)" in capsys.readouterr().err


@pytest.mark.parametrize("spacing", [["0"], ["1", "1"], ["-1"]])
def test_an_impossible_spacing_is_refused(raw, archive, capsys, spacing):
    assert convert(archive, "--spacing", *spacing) == 1
    assert "--spacing" in capsys.readouterr().err


def test_the_testing_set_serves_as_unlabeled_images_on_request_only(raw, archive):
    (archive / "Testing Set" / ("Z" * 20) / "laendo.nrrd").write_text("never read")
    assert convert(archive, "--labeled", "2", "--testing_as_unlabeled") == 0
    assert placed(raw / "Dataset101_LA")["imagesUn"] == sorted([*TRAIN[2:], "Z" * 20])


def test_cases_without_a_mask_are_unlabeled_and_cannot_be_asked_to_be_labeled(raw, tmp_path, capsys):
    folder = tmp_path / "LA"
    for number, case_id in enumerate(TRAIN):
        write_nrrd(folder, case_id, with_mask=number not in (0, 3))
    assert convert(folder, "--labeled", "4") == 1
    assert "the train list has 3 with a label. Ask for 1 to 3" in capsys.readouterr().err
    assert convert(folder, "--labeled", "2") == 0
    assert placed(raw / "Dataset101_LA")["labelsTr"] == sorted(TRAIN[1:3])
    assert placed(raw / "Dataset101_LA")["imagesUn"] == sorted([TRAIN[0], *TRAIN[3:]])


def test_masks_of_0_and_1_are_read_and_other_codes_are_refused(raw, tmp_path, capsys):
    write_nrrd(tmp_path / "good", TRAIN[0], foreground=1)
    assert convert(tmp_path / "good") == 0
    assert read(raw / "Dataset101_LA" / "labelsTr" / f"{TRAIN[0]}.nii.gz")[0].sum() == 27
    write_nrrd(tmp_path / "bad", TRAIN[0], foreground=7)
    assert convert(tmp_path / "bad", "-d", "102") == 1
    assert "holds the codes (0, 7); allowed is {0, 255} or {0, 1}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["inside the wrapper", "in the input folder", "beside the input folder"])
def test_h5_cases_and_their_lists_are_found_wherever_they_lie(raw, tmp_path, capsys, place):
    wrapper = tmp_path / "data" / "2018LA_Seg_Training Set"
    for case_id in (*TRAIN[:3], TEST[0]):
        write_h5(wrapper, case_id)
    lists = wrapper if place == "inside the wrapper" else wrapper.parent
    # not the order of the standard list, so that its use is seen
    (lists / "train.list").write_bytes(f"{TRAIN[2]}\r\n{TRAIN[1]}\r\n\r\n{TRAIN[0]}".encode())
    (lists / "test.list").write_bytes(f"{TEST[0]},".encode())
    assert convert(wrapper if place == "beside the input folder" else wrapper.parent, "--labeled", "1") == 0
    target = raw / "Dataset101_LA"
    assert placed(target)["imagesTr"] == [TRAIN[2]]
    assert placed(target)["imagesUn"] == sorted(TRAIN[:2])
    assert placed(target)["labelsTs"] == [TEST[0]]
    image, mask = arrays(TRAIN[2], 1)
    found, header = read(target / "imagesTr" / f"{TRAIN[2]}_0000.nii.gz")
    np.testing.assert_allclose(found, (image.astype(np.float32) - image.mean()) / image.std(), atol=1e-5)
    np.testing.assert_array_equal(read(target / "labelsTr" / f"{TRAIN[2]}.nii.gz")[0], mask)
    assert header.GetSpacing() == (0.625, 0.625, 0.625)
    assert "h5 files carry no spacing: set to 0.625" in capsys.readouterr().out


def test_lists_given_by_the_user_win_and_may_hold_a_validation_part(raw, archive, tmp_path):
    (archive / "train.list").write_text("not used")
    for part, ids in (("train", TRAIN[3:0:-1]), ("val", TRAIN[:1]), ("test", TEST)):
        (tmp_path / f"{part}.txt").write_text("\n".join(ids))
    assert convert(archive, "--labeled", "0.34", "--split", str(tmp_path)) == 0
    target = raw / "Dataset101_LA"
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": [TRAIN[3]], "val": [TRAIN[0]]}]
    assert placed(target)["imagesUn"] == sorted(TRAIN[1:3])


def test_a_list_with_an_unknown_case_is_refused(raw, archive, capsys):
    (archive / "train.list").write_text(f"{TRAIN[0]}\nNOBODY\n")
    assert convert(archive) == 1
    assert "names 1 unknown case(s): NOBODY" in capsys.readouterr().err
    assert not raw.exists()


def remove(name: str):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "break_it, message",
    [
        (remove(f"Training Set/{TRAIN[0]}/lgemri.nrrd"), "is a label without an image: lgemri.nrrd is missing"),
        (lambda f: (f / "Training Set" / ("Y" * 20)).mkdir(), "is a case folder without lgemri.nrrd or mri_norm2.h5"),
        (lambda f: write_nrrd(f / "Testing Set", TRAIN[1]), f"case {TRAIN[1]} occurs twice in the input"),
        (lambda f: write_h5(f / "h5", "X" * 20), "mixes the two forms of this data set"),
    ],
    ids=["label without image", "empty case folder", "duplicate", "two forms"],
)
def test_a_folder_that_is_not_the_release_is_refused(raw, archive, capsys, break_it, message):
    break_it(archive)
    assert convert(archive) == 1
    assert message in capsys.readouterr().err
    assert not raw.exists()


def test_folders_without_cases_or_without_known_cases_are_refused(raw, tmp_path, capsys):
    (tmp_path / "some" / "where").mkdir(parents=True)
    assert convert(tmp_path / "some") == 1
    assert "no case found" in capsys.readouterr().err
    write_nrrd(tmp_path / "LA", "my_case")
    assert convert(tmp_path / "LA") == 1
    assert "Give your own lists with --split" in capsys.readouterr().err


def test_damaged_files_of_both_forms_are_named(raw, archive, tmp_path, capsys):
    image = archive / "Training Set" / TRAIN[4] / "lgemri.nrrd"
    image.write_bytes(image.read_bytes()[:-30])
    assert convert(archive, "--labeled", "2") == 1
    assert f"{image} cannot be read, it is truncated or damaged" in capsys.readouterr().err
    for case_id in TRAIN[:3]:
        write_h5(tmp_path / "h5", case_id)
    with h5py.File(tmp_path / "h5" / TRAIN[0] / "mri_norm2.h5", "a") as file:
        file.move("label", "mask")
    with h5py.File(tmp_path / "h5" / TRAIN[1] / "mri_norm2.h5", "a") as file:
        del file["image"]
        file["image"] = np.zeros((4, 4))
    # the label of an unlabeled case may be absent: it is not read
    with h5py.File(tmp_path / "h5" / TRAIN[2] / "mri_norm2.h5", "a") as file:
        del file["label"]
    assert convert(tmp_path / "h5", "--labeled", "2") == 1
    errors = capsys.readouterr().err
    assert "2 of 3 cases" in errors
    assert f"{TRAIN[0]}/mri_norm2.h5: key 'label' is missing; found image, mask" in errors
    assert "key 'image' has shape (4, 4), expected three axes (x, y, z)" in errors


# --- real cases -------------------------------------------------------------------------------------------------------


def linked(folder: Path, *cases: Path) -> Path:
    folder.mkdir()
    for case in cases:
        (folder / case.name).symlink_to(case)
    return folder


def test_both_routes_of_the_same_real_cases_give_the_same_data_set(raw, tmp_path):
    h5 = shared_dir("data", "la_h5")
    ids = sorted(path.name for path in h5.iterdir())
    nrrd = shared_dir("data", "la")
    assert convert(linked(tmp_path / "nrrd", *(nrrd / i for i in ids)), "-d", "101") == 0
    assert convert(linked(tmp_path / "h5", *(h5 / i for i in ids)), "-d", "102", "-name", "LAh5") == 0
    for case_id in ids:
        one, other = ("Dataset101_LA", "Dataset102_LAh5")
        masks = [read(raw / name / "labelsTr" / f"{case_id}.nii.gz") for name in (one, other)]
        np.testing.assert_array_equal(masks[0][0], masks[1][0])
        assert 0.03 < masks[0][0].mean() < 0.2
        images = [read(raw / name / "imagesTr" / f"{case_id}_0000.nii.gz") for name in (one, other)]
        for get in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
            assert len({get(image) for _, image in (*masks, *images)}) == 1
        x, y = (array.astype(np.float64).ravel() for array, _ in images)
        slope, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(slope * x + offset, y, atol=1e-4 * np.abs(y).max())


def test_a_real_unit_header_gives_the_geometry_of_the_corrected_one(raw, tmp_path):
    unit = shared_dir("data", "la_unit_header")
    (case,) = (path.name for path in unit.iterdir())
    assert convert(unit, "-d", "101") == 0
    assert convert(linked(tmp_path / "la", shared_dir("data", "la", case)), "-d", "102", "-name", "B") == 0
    for file in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
        assert (raw / "Dataset101_LA" / file).read_bytes() == (raw / "Dataset102_B" / file).read_bytes()


def test_a_real_subset_has_the_expected_parts_and_passes_the_check_of_nnunet(raw, tmp_path):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    data = shared_dir("data", "la")
    ids = [*(data / "train.list").read_text().split()[:3], (data / "test.list").read_text().split()[0]]
    assert convert(linked(tmp_path / "la", *(data / case_id for case_id in ids)), "--labeled", "2", np=2) == 0
    target = raw / "Dataset101_LA"
    assert {name: len(cases) for name, cases in placed(target).items()} == {
        "imagesTr": 2,
        "labelsTr": 2,
        "imagesUn": 1,
        "imagesTs": 1,
        "labelsTs": 1,
    }
    verify_dataset_integrity(str(target), num_processes=1)
    original = sitk.ReadImage(str(data / ids[2] / "lgemri.nrrd"))
    found, header = read(target / "imagesUn" / f"{ids[2]}_0000.nii.gz")
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(original))
    assert header.GetSpacing() == original.GetSpacing()
