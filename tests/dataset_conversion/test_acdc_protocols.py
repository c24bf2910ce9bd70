"""Published splits of ACDC by patient: who trains, validates and tests, with scribbles and without."""

from __future__ import annotations

import pytest

from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.dataset_conversion.acdc_protocols import cross_validation, cyclemix, maag, wsl4mis
from nnunet_ssl.dataset_conversion.common import Case
from nnunet_ssl.errors import UserError
from tests.helpers.acdc_release import (
    convert,
    convert_scribbles,
    frames_of,
    placed,
    write_patient,
    write_patients,
    write_scribbles,
)


def test_the_folds_of_wsl4mis_go_by_patient_and_every_frame_is_tested_once(raw, tmp_path, capsys):
    patients = write_patients(tmp_path, 1, 20, 21, 60, 61, 100)
    assert convert_scribbles(tmp_path, "--split_patients", "wsl4mis") == 0
    target = raw / "Dataset027_ACDC"
    splits = load_splits(target / "splits_final.json")
    groups = [patients[:2], *([patient] for patient in patients[2:])]
    assert [split["val"] for split in splits] == [frames_of(group) for group in groups]
    for split in splits:
        assert sorted(split["train"] + split["val"]) == frames_of(patients)
    assert placed(target)["labelsTr_dense"] == frames_of(patients)
    assert placed(target)["imagesUn"] == placed(target)["imagesTs"] == []
    printed = capsys.readouterr().out
    assert "Using the five folds of WSL4MIS: 6 of 100 training patients are present." in printed
    assert "5 folds, training / validation cases  0: 8 / 4, 1: 10 / 2" in printed


def test_without_scribbles_the_same_split_serves_the_dense_baseline(raw, tmp_path):
    patients = write_patients(tmp_path, 1, 21)
    assert convert(tmp_path, "--split_patients", "wsl4mis") == 0
    assert load_splits(raw / "Dataset027_ACDC" / "splits_final.json") == [
        {"train": frames_of(patients[1:]), "val": frames_of(patients[:1])},
        {"train": frames_of(patients[:1]), "val": frames_of(patients[1:])},
    ]


def cases_of(*numbers: int) -> list[Case]:
    return [Case(f"patient{n:03d}_frame01", f"patient{n:03d}", (), None, "") for n in numbers]


def test_folds_without_patients_are_left_out_only_at_the_end(capsys):
    folds = cross_validation(cases_of(3, 22, 23), wsl4mis(None).groups)
    assert [len(fold["val"]) for fold in folds] == [1, 2]
    assert "2 of 5 folds are written" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"one side of fold 1 \(patient021 to patient040\)"):
        cross_validation(cases_of(3, 41), wsl4mis(None).groups)
    with pytest.raises(UserError, match=r"one side of fold 0"):
        cross_validation(cases_of(3, 4), wsl4mis(None).groups)


def test_unlabeled_images_of_patients_that_a_fold_tests_are_refused(raw, tmp_path, capsys):
    write_patients(tmp_path, 1, 21)
    for arguments in (("--labeled", "1"), ("--split", str(tmp_path))):
        assert convert_scribbles(tmp_path, "--split_patients", "wsl4mis", *arguments) == 1
    errors = capsys.readouterr().err
    assert "--labeled would make test patients unlabeled training images" in errors
    assert "--split and --split_patients both say who trains" in errors
    write_patient(tmp_path / "ACDC" / "training", "patient041", frames=(1, 3), number_4d=4)
    write_scribbles(tmp_path / "acdc_scribbles", "patient041", (1, 3))
    assert convert_scribbles(tmp_path, "--split_patients", "wsl4mis", "--frames_4d") == 1
    assert "--frames_4d would make test patients unlabeled" in capsys.readouterr().err
    # a frame without label of such a patient is no unlabeled image either
    (tmp_path / "ACDC" / "training" / "patient041" / "patient041_frame03_gt.nii.gz").unlink()
    assert convert(tmp_path, "--split_patients", "wsl4mis") == 0
    assert placed(raw / "Dataset027_ACDC")["imagesUn"] == []
    assert "1 frame(s) have no label and are left out: patient041_frame03" in capsys.readouterr().out


def test_the_split_of_maag_labels_its_35_and_leaves_the_35_with_masks_unlabeled(raw, tmp_path, capsys):
    protocol = maag(None)
    parts = [protocol.labeled, protocol.train[35:], protocol.validation, protocol.test]
    assert [len(part) for part in parts] == [35, 35, 15, 15]
    assert sorted(patient for part in parts for patient in part) == [f"patient{n:03d}" for n in range(1, 101)]
    write_patients(tmp_path, 37, 2, 84, 5)
    (tmp_path / "acdc_scribbles" / "patient002_frame01_scribble.nii.gz").unlink()  # not needed: not among the 35
    assert convert_scribbles(tmp_path, "--split_patients", "maag") == 0
    target = raw / "Dataset027_ACDC"
    assert load_splits(target / "splits_final.json") == [
        {"train": frames_of(["patient037"]), "val": frames_of(["patient084"])}
    ]
    assert placed(target)["imagesUn"] == frames_of(["patient002"])
    assert placed(target)["labelsTs"] == frames_of(["patient005"])
    assert (
        "Using the split of MAAG: 2 of 70 training, 1 of 15 validation and 1 of 15 test patients"
        in capsys.readouterr().out
    )


def test_a_seed_without_effect_on_the_35_of_maag_is_refused(raw, tmp_path, capsys):
    write_patients(tmp_path, 37, 2, 84, 5)
    assert convert_scribbles(tmp_path, "--split_patients", "maag", "--seed", "3") == 1
    assert "--split_patients maag says which patients are labeled, so --seed 3 has" in capsys.readouterr().err
    assert convert_scribbles(tmp_path, "--split_patients", "maag", "--seed", "3", "--labeled", "1") == 0


def test_cyclemix_draws_35_of_its_70_patients_with_the_seed(raw, tmp_path, capsys):
    first, again, other = cyclemix(0), cyclemix(None), cyclemix(1)
    assert first.labeled == again.labeled != other.labeled
    assert len(set(first.labeled)) == 35 and set(first.labeled) < set(first.train)
    assert [first.train[-1], first.validation[0], first.validation[-1], first.test[0], first.test[-1]] == [
        "patient070", "patient071", "patient085", "patient086", "patient100"
    ]  # fmt: skip
    drawn = first.labeled[0]
    rest = next(patient for patient in first.train if patient not in first.labeled)
    write_patients(tmp_path, int(drawn[-3:]), int(rest[-3:]), 71, 86)
    assert convert_scribbles(tmp_path, "--split_patients", "cyclemix") == 0
    target = raw / "Dataset027_ACDC"
    assert load_splits(target / "splits_final.json")[0] == {
        "train": frames_of([drawn]),
        "val": frames_of(["patient071"]),
    }
    assert placed(target)["imagesUn"] == frames_of([rest])
    assert "drawn with --seed 0 (theirs are not published)" in capsys.readouterr().out
    assert convert_scribbles(tmp_path, "--split_patients", "cyclemix", "--labeled", "2", "-d", "28") == 0
    assert placed(raw / "Dataset028_ACDC")["imagesUn"] == []
