"""BraTS: the folder layouts of 2018 to 2023 give the data set that nnU-Net's own BraTS converter would give."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.dataset_conversion import Dataset137_BraTS as brats
from nnunet_ssl.errors import UserError
from tests.helpers.paths import shared_dir

SHAPE = (10, 12, 14)  # (z, y, x)
OLD, NEW = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")
WRAPPERS = {
    2018: ("MICCAI_BraTS_2018_Data_Training/HGG", "Brats18_TCIA90_{}_1", ".nii.gz"),
    2019: ("MICCAI_BraTS_2019_Data_Training/LGG", "BraTS19_TCIA90_{}_1", ".nii.gz"),
    2020: ("BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData", "BraTS20_Training_{:03d}", ".nii"),
    2021: ("BraTS2021_Training_Data", "BraTS2021_{:05d}", ".nii.gz"),
    2023: ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "BraTS-GLI-{:05d}-000", ".nii.gz"),
}


def _write(array: np.ndarray, file: Path, origin=(0.0, -239.0, 0.0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(file))


def _label(enhancing: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 2:8, 2:8], label[3:6, 3:6, 3:6], label[4, 4, 4:6] = 2, 1, enhancing
    return label


def write_case(folder: Path, case: str, ending=".nii.gz", label: np.ndarray | None = None, seed: int = 0) -> Path:
    """A case in the naming style of its id. Image voxels are 1000 * (1 + index of the sequence) plus noise."""
    rng = np.random.default_rng([seed, *case.encode()])
    names, separator = (NEW, "-") if "-GLI-" in case else (OLD, "_")
    for index, name in enumerate(names):
        array = (1000 * (index + 1) + rng.integers(0, 900, SHAPE)).astype(np.int16)
        _write(array, folder / case / f"{case}{separator}{name}{ending}")
    if label is not None:
        _write(label, folder / case / f"{case}{separator}seg{ending}")
    return folder / case


def write_release(root: Path, year: int, n_labeled: int = 5, n_unlabeled: int = 1) -> list[str]:
    """A release as unpacked, with the files that are no cases; returns the ids, those without segmentation last."""
    wrapper, pattern, ending = WRAPPERS[year]
    cases = [pattern.format(k) for k in range(n_labeled + n_unlabeled)]
    for k, case in enumerate(cases):
        label = _label(4 if year <= 2021 else 3) if k < n_labeled else None
        write_case(root / wrapper, case, ending, label)
    (root / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\n")
    (root / "survival_info.csv").write_text("Brats20ID,Age\n")
    (root / wrapper / ".DS_Store").write_bytes(b"junk")
    (root / "__MACOSX" / cases[0]).mkdir(parents=True)
    (root / "__MACOSX" / cases[0] / f"._{cases[0]}_t1ce.nii.gz").write_bytes(b"junk")
    (root / wrapper / cases[0] / f"._{cases[0]}_flair{ending}").write_bytes(b"junk")
    return cases


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Runs the converter with the given arguments; returns the folder of the data set."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def run(root: Path, *arguments: object) -> Path:
        parser = argparse.ArgumentParser()
        brats.add_arguments(parser)
        brats.run(parser.parse_args(["-i", str(root), "-np", "1", *map(str, arguments)]))
        return tmp_path / "nnUNet_raw" / "Dataset137_BraTS"

    return run


def _array(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize("year", sorted(WRAPPERS))
def test_every_year_gives_the_labels_channels_and_regions_of_nnunets_own_converter(year, tmp_path, convert):
    cases = write_release(tmp_path / "in", year)
    found, found_year = brats.find_cases(tmp_path / "in")
    assert ([case.case_id for case in found], found_year) == (cases, year)
    target = convert(tmp_path / "in", "--labeled", 2)

    description = json.loads((target / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    assert description["labels"] == {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": [3],
    }
    assert description["regions_class_order"] == [1, 2, 3]
    assert description["file_ending"] == ".nii.gz"

    listed = UnlabeledList.load(target / "unlabeled.json")
    assert [len(part) for part in (listed.labeled, listed.unlabeled, listed.test)] == [2, 3, 1]
    assert cases[-1] in listed.unlabeled  # no segmentation: unlabeled
    labeled = sorted(listed.labeled)
    assert sorted(file.name for file in (target / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in labeled]
    release = _label(4 if year <= 2021 else 3)
    ours = _array(target / "labelsTr" / f"{labeled[0]}.nii.gz")
    assert ((ours == 1) == (release == 2)).all()
    assert ((ours == 2) == (release == 1)).all()
    assert ((ours == 3) == (release == release.max())).all()
    assert (brats.to_release_codes(ours, year) == release).all()
    for channel in range(4):
        assert _array(target / "imagesTr" / f"{labeled[0]}_{channel:04d}.nii.gz").min() // 1000 == channel + 1
    splits = json.loads((target / "splits_final.json").read_text())
    assert splits == [{"train": labeled, "val": labeled}]


def test_no_label_of_an_unlabeled_case_reaches_the_data_set(tmp_path, convert):
    cases = write_release(tmp_path / "in", 2021)
    target = convert(tmp_path / "in", "--labeled", 2)
    hidden = sorted(UnlabeledList.load(target / "unlabeled.json").unlabeled)
    assert set(hidden) < set(cases)
    assert not [file for file in target.rglob("*") for case in hidden if case in file.name and "labels" in str(file)]


def test_the_misnamed_mask_of_2020_case_355_is_found(tmp_path, convert, capsys):
    folder = tmp_path / "in"
    write_case(folder, "BraTS20_Training_354", ".nii", _label(4))
    case = write_case(folder, "BraTS20_Training_355", ".nii")
    _write(_label(4), case / "W39_1998.09.19_Segm.nii")
    target = convert(folder, "--test_fraction", 0)
    assert (_array(target / "labelsTr" / "BraTS20_Training_355.nii.gz") == 3).sum() == 2
    assert "W39_1998.09.19_Segm.nii" in capsys.readouterr().out
    _write(_label(4), case / "BraTS20_Training_355_seg.nii")
    with pytest.raises(UserError, match=r"more than one file could be the segmentation.*W39"):
        brats.find_cases(folder)


def test_a_file_that_is_no_sequence_is_not_taken_for_a_mask(tmp_path):
    case = write_case(tmp_path, "BraTS2021_00001")
    _write(np.ones(SHAPE, np.uint8), case / "brain_mask.nii.gz")
    with pytest.raises(UserError, match="neither an image sequence nor a segmentation"):
        brats.find_cases(tmp_path)


@pytest.mark.parametrize("case, code", [("BraTS2021_00001", 3), ("BraTS19_A_1_1", 5), ("BraTS-GLI-00001-000", 7)])
def test_unexpected_codes_are_refused(case, code, tmp_path, convert):
    write_case(tmp_path / "in", case, label=_label(code))
    with pytest.raises(UserError, match=rf"(?s){case}.*codes \(0, 1, 2, {code}\).*allowed"):
        convert(tmp_path / "in", "--test_fraction", 0)


def test_a_four_in_the_2023_naming_is_refused_as_the_resection_cavity_of_2024(tmp_path, convert):
    write_case(tmp_path / "in", "BraTS-GLI-02062-100", label=_label(4))
    with pytest.raises(UserError, match=r"(?s)02062-100.*resection cavity of BraTS 2024"):
        convert(tmp_path / "in", "--test_fraction", 0)


def test_a_release_of_2024_is_one_whatever_is_drawn_from_it(tmp_path, convert):
    for number in range(4):
        write_case(tmp_path / "in", f"BraTS-GLI-0206{number}-100", label=_label(3))
    drawn = convert(tmp_path / "in", "--test_fraction", 0, "--labeled", 1)
    unlabeled = sorted(UnlabeledList.load(drawn / "unlabeled.json").unlabeled)
    write_case(tmp_path / "in", unlabeled[0], label=_label(4))  # its label is not converted
    with pytest.raises(UserError, match=rf"(?s){unlabeled[0]}.*resection cavity of BraTS 2024"):
        convert(tmp_path / "in", "--test_fraction", 0, "--labeled", 1, "--overwrite")


def test_a_case_without_enhancing_tumor_is_normal(tmp_path, convert):
    label = _label(4)
    label[label == 4] = 1
    write_case(tmp_path / "in", "BraTS2021_00001", label=label)
    target = convert(tmp_path / "in", "--test_fraction", 0)
    assert set(np.unique(_array(target / "labelsTr" / "BraTS2021_00001.nii.gz"))) == {0, 1, 2}


def test_whole_tumor_and_flair_only_follow_the_ssl4mis_protocol(tmp_path, convert):
    cases = write_release(tmp_path / "in", 2019, n_labeled=6, n_unlabeled=0)
    lists = tmp_path / "lists"
    lists.mkdir()
    # a comma may follow, CRLF occurs, a final newline may be missing
    (lists / "train.txt").write_bytes(f"{cases[3]},\r\n{cases[0]}\r\n\r\n{cases[4]}".encode())
    (lists / "val.txt").write_bytes(f"{cases[1]}\r\n".encode())
    (lists / "test.txt").write_text(f"{cases[2]}")
    files = [lists / f"{name}.txt" for name in ("train", "val", "test")]
    target = convert(tmp_path / "in", "--split", *files, "--labeled", 1, "--channels", "flair", "--whole_tumor")
    description = json.loads((target / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "Flair"}
    assert description["labels"] == {"background": 0, "whole tumor": 1}
    assert "regions_class_order" not in description
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": [cases[3]], "val": [cases[1]]}]
    assert sorted(file.name[:-12] for file in (target / "imagesUn").iterdir()) == sorted([cases[0], cases[4]])
    assert [file.name for file in (target / "imagesTs").iterdir()] == [f"{cases[2]}_0000.nii.gz"]
    assert not list(target.rglob(f"*{cases[5]}*"))  # in none of the lists
    assert _array(target / "imagesTr" / f"{cases[3]}_0000.nii.gz").min() // 1000 == 4
    whole = _array(target / "labelsTr" / f"{cases[3]}.nii.gz")
    assert (whole == (_label(4) > 0)).all()


def test_two_time_points_of_a_2023_patient_stay_together(tmp_path):
    for patient in range(6):
        for time_point in range(2):
            label = _label(3) if time_point == 0 or patient % 2 else None
            write_case(tmp_path, f"BraTS-GLI-{patient:05d}-{time_point:03d}", label=label)
    cases, _ = brats.find_cases(tmp_path)
    patient_of = {case.case_id: case.patient for case in cases}
    assert set(patient_of.values()) == {f"BraTS-GLI-{patient:05d}" for patient in range(6)}
    for seed in range(8):
        found = brats.assign(cases, "2", seed, val_fraction=0.2, test_fraction=0.2)
        sides = [
            {patient_of[c] for c in side} for side in (found.labeled + found.unlabeled, found.validation, found.test)
        ]
        assert [len(side) for side in sides] == [4, 1, 1]
        assert len(set.union(*sides)) == 6
        assert len({patient_of[case] for case in found.labeled}) == 2
        has_label = {case.case_id for case in cases if case.label is not None}
        assert set(found.labeled + found.validation) <= has_label
        # a labeled patient's time point without segmentation is unlabeled
        unlabeled_of_labeled = {c for c in found.unlabeled if patient_of[c] in {patient_of[k] for k in found.labeled}}
        assert not unlabeled_of_labeled & has_label


def test_lists_that_cut_a_2023_patient_apart_are_refused(tmp_path, convert):
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        write_case(tmp_path / "in", case, label=_label(3))
    (tmp_path / "train.txt").write_text("BraTS-GLI-00001-000\nBraTS-GLI-00002-000\n")
    (tmp_path / "test.txt").write_text("BraTS-GLI-00001-001\n")
    with pytest.raises(UserError, match="patient BraTS-GLI-00001 "):
        convert(tmp_path / "in", "--split", tmp_path / "train.txt", tmp_path / "test.txt")


def test_the_draw_depends_on_the_seed_and_more_labels_contain_fewer(tmp_path):
    write_release(tmp_path, 2018, n_labeled=12, n_unlabeled=0)
    cases, _ = brats.find_cases(tmp_path)
    few, many = (brats.assign(cases, number, 3) for number in ("2", "5"))
    assert few.test == many.test
    assert len(few.test) == 2
    assert set(few.labeled) < set(many.labeled)
    assert brats.assign(cases, "2", 3) == few
    assert len({brats.assign(cases, "2", seed).labeled for seed in range(6)}) > 1
    assert brats.assign(cases, None, test_fraction=0).test == ()
    # a list of labeled cases needs no seed
    (tmp_path / "mine.txt").write_text(f"{cases[7].case_id}\n")
    assert brats.assign(cases, str(tmp_path / "mine.txt"), test_fraction=0).labeled == (cases[7].case_id,)


def test_years_are_never_mixed(tmp_path):
    write_release(tmp_path / "a", 2020, 2)
    write_release(tmp_path / "b", 2021, 2)
    with pytest.raises(UserError, match=r"(?s)more than one year: 2020 .*2021 .*under new names"):
        brats.find_cases(tmp_path)


def test_a_missing_sequence_names_the_case_unless_it_is_not_wanted(tmp_path):
    write_release(tmp_path, 2023, 2, 0)
    folder = tmp_path / WRAPPERS[2023][0] / "BraTS-GLI-00001-000"
    (folder / "BraTS-GLI-00001-000-t1c.nii.gz").unlink()
    with pytest.raises(UserError, match=r"(?s)1 case folder.*BraTS-GLI-00001-000: missing t1c\."):
        brats.find_cases(tmp_path)
    assert len(brats.find_cases(tmp_path, ["flair"])[0]) == 2


def test_a_case_that_lies_in_two_places_is_refused(tmp_path):
    write_case(tmp_path / "HGG", "BraTS19_A_1_1", label=_label(4))
    shutil.copytree(tmp_path / "HGG", tmp_path / "copy" / "HGG")
    with pytest.raises(UserError, match=r"(?s)BraTS19_A_1_1 lies in .*HGG.* and in .*copy"):
        brats.find_cases(tmp_path)


def test_a_sequence_as_nii_and_nii_gz_and_two_cases_in_a_folder_are_refused(tmp_path):
    folder = write_case(tmp_path / "a", "BraTS19_A_1_1")
    _write(np.ones(SHAPE, np.int16), folder / "BraTS19_A_1_1_t1.nii")
    with pytest.raises(UserError, match="one sequence twice"):
        brats.find_cases(tmp_path / "a")
    folder = write_case(tmp_path / "b", "BraTS19_A_1_1")
    _write(np.ones(SHAPE, np.int16), folder / "BraTS19_A_2_1_t1.nii")
    with pytest.raises(UserError, match="more than one case"):
        brats.find_cases(tmp_path / "b")


def test_other_tracks_unknown_years_and_empty_folders_are_refused(tmp_path):
    for case in NEW:
        _write(np.ones(SHAPE, np.int16), tmp_path / "men" / "x" / f"BraTS-MEN-00001-000-{case}.nii.gz")
    with pytest.raises(UserError, match="not a case of the adult glioma track"):
        brats.find_cases(tmp_path / "men")
    write_case(tmp_path / "old", "Brats17_TCIA_1_1")
    with pytest.raises(UserError, match="year of 'Brats17_TCIA_1_1' is unknown"):
        brats.find_cases(tmp_path / "old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("nothing here")
    with pytest.raises(UserError, match="No BraTS case below"):
        brats.find_cases(tmp_path / "other")


def test_files_of_a_case_on_different_grids_are_refused(tmp_path, convert):
    folder = write_case(tmp_path / "in", "BraTS2021_00001", label=_label(4))
    _write(np.ones(SHAPE, np.int16), folder / "BraTS2021_00001_t2.nii.gz", origin=(0.0, 0.0, 0.0))
    with pytest.raises(UserError, match=r"(?s)BraTS2021_00001.*origin of the image T2"):
        convert(tmp_path / "in", "--test_fraction", 0)


def test_validation_cases_alone_cannot_be_a_training_set(tmp_path, convert):
    write_case(tmp_path / "in", "BraTS20_Validation_001", ".nii")
    with pytest.raises(UserError, match="None of the 1 cases has a segmentation"):
        convert(tmp_path / "in")
    write_case(tmp_path / "in", "BraTS20_Training_001", ".nii", _label(4))
    (tmp_path / "train.txt").write_text("BraTS20_Training_001\n")
    (tmp_path / "val.txt").write_text("BraTS20_Validation_001\n")
    with pytest.raises(UserError, match="without segmentation: BraTS20_Validation_001"):
        convert(tmp_path / "in", "--split", tmp_path / "train.txt", tmp_path / "val.txt")
    with pytest.raises(UserError, match="no meaning with --split"):
        convert(tmp_path / "in", "--split", tmp_path / "train.txt", "--test_fraction", "0.1")


@pytest.mark.parametrize("fraction", ["-0.1", "1.0"])
def test_fractions_out_of_range_are_refused(fraction, tmp_path):
    write_case(tmp_path, "BraTS20_Training_001", label=_label(4))
    cases, _ = brats.find_cases(tmp_path)
    with pytest.raises(UserError, match="is not a fraction"):
        brats.assign(cases, None, test_fraction=float(fraction))
    with pytest.raises(UserError, match="No patient with a segmentation is left"):
        brats.assign(cases, None, test_fraction=0.5)


def test_the_synthetic_releases_of_the_data_pack_are_converted(tmp_path, convert):
    maker = shared_dir("data", "brats", "make_brats_like.py")
    subprocess.run([sys.executable, str(maker), str(tmp_path / "in"), "--cases", "2", "--size", "24"], check=True)
    for year in WRAPPERS:
        target = convert(tmp_path / "in" / f"BraTS{year}", "--test_fraction", "0", "--overwrite")
        listed = UnlabeledList.load(target / "unlabeled.json")
        unlabeled = {"BraTS20_Validation_001", "BraTS20_Validation_002"} if year == 2020 else set()
        assert (len(listed.labeled), set(listed.unlabeled)) == (2, unlabeled)
        for case in listed.labeled:
            assert set(np.unique(_array(target / "labelsTr" / f"{case}.nii.gz"))) == {0, 1, 2, 3}


def test_the_real_cases_of_the_data_pack_are_converted(tmp_path, convert):
    root = shared_dir("data", "brats")
    for folder, case, codes in (
        ("BraTS2019_style", "BraTS19_TCGA-FG-6692_1", {0, 1, 2, 3}),
        ("BraTS2021_style", "BraTS2021_90001", {0, 1, 2}),
    ):
        target = convert(root / folder, "--test_fraction", 0, "--overwrite")
        ours = _array(target / "labelsTr" / f"{case}.nii.gz")
        assert set(np.unique(ours)) == codes
        (source,) = (root / folder).rglob("*_seg.nii.gz")
        release = _array(source)
        assert (brats.to_release_codes(ours, 2021) == release).all()
        image = sitk.ReadImage(str(target / "imagesTr" / f"{case}_0003.nii.gz"))
        original = sitk.ReadImage(str(next((root / folder).rglob("*_flair.nii.gz"))))
        assert image.GetOrigin() == original.GetOrigin()
        assert image.GetDirection() == original.GetDirection()
        assert (sitk.GetArrayFromImage(image) == sitk.GetArrayFromImage(original)).all()
    found, year = brats.find_cases(root / "BraTS2023_style")
    assert (year, found[0].case_id, found[0].patient, found[0].label) == (
        2023,
        "BraTS-GLI-00001-000",
        "BraTS-GLI-00001",
        None,
    )
