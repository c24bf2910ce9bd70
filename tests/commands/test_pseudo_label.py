"""A round of pseudo labels: predicted as nnU-Net predicts, selected, continued after a kill, refused where it would be a leak."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_ssl.cli import main
from nnunet_ssl.errors import UserError
from nnunet_ssl.predictions.selection import changed_share, class_confidence, foreground_entropy, uncertain_voxels
from nnunet_ssl.preprocessing import round_cases
from nnunet_ssl.preprocessing.foreign_labels import CodeMap
from nnunet_ssl.preprocessing.rounds import Round
from tests.helpers.hostile import MakesFolder, spoil_checkpoint
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_data import read_array
from tests.helpers.synthetic import make_dataset
from tests.helpers.training import copy_dataset, make_trainer, started

DATASET = "Dataset991_Synthetic"
CASES = ["free_00", "free_01", "free_02"]
ONE_CASE_DONE = """
import os, sys
from nnunet_ssl.cli import main
from nnunet_ssl.preprocessing.round_cases import CaseWriter
whole, done = CaseWriter.prediction, []
def prediction(self, case, *arguments):
    if done:
        (self.made.folder / "labels" / f".{case}.nii.gz.node-1.tmp.nii.gz").write_bytes(b"half a file")
        os._exit(9)
    done.append(case)
    return whole(self, case, *arguments)
CaseWriter.prediction = prediction
main(sys.argv[1:])
"""


def train(out: Path, fold, steps: int, name: str = "nnUNetTrainer", **settings) -> None:
    """A finished model of a few steps, as training leaves it."""
    trainer = started(make_trainer(name, out, DATASET, "2d", fold, **settings), seed=steps)
    trainer.network.train()
    for _ in range(steps):
        trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A data set with two finished folds of nnUNetTrainer in 2D; copied by the tests."""
    out = tmp_path_factory.mktemp("trained")
    make_dataset(out)
    ids = [f"case_{i:02d}" for i in range(4)]
    splits = json.dumps([{"train": ids[:3], "val": ids[3:]}, {"train": ids[1:], "val": ids[:1]}])
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (out / folder / DATASET / "splits_final.json").write_text(splits)
    environment = dict(os.environ)
    for fold, steps in ((0, 60), (1, 61)):
        train(out, fold, steps)
    os.environ.clear()
    os.environ.update(environment)
    return out


@pytest.fixture
def own(trained, tmp_path, monkeypatch) -> Path:
    out = copy_dataset(trained, tmp_path / "own")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(out / name))
    return out


def pseudo_label(*arguments: str, folds=("0",)) -> int:
    of_model = ("-f", *folds, "-device", "cpu") if folds else ()
    return main(["pseudo_label", "-d", "991", "-c", "2d", "-np", "1", "--no_pbar", *of_model, *arguments])


def folder_of(out: Path, name: str = "round1") -> Path:
    return out / "nnUNet_preprocessed" / DATASET / "pseudo_labels" / name


def table(out: Path, name: str = "round1") -> dict[str, dict[str, str]]:
    with (folder_of(out, name) / "cases.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def labels(out: Path, case: str, name: str = "round1") -> np.ndarray:
    return read_array(folder_of(out, name) / "labels" / f"{case}.nii.gz")


def nnunet_predictions(
    out: Path, folds: tuple[int, ...], target: Path, mirroring: bool = True
) -> dict[str, np.ndarray]:
    """Probabilities by nnU-Net's own command for files, case -> `(C, *spatial)`."""
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    model = out / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d"
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    files = [[str(out / "nnUNet_raw" / DATASET / "imagesUn" / f"{case}_0000.nii.gz")] for case in CASES]
    target.mkdir()
    predictor.predict_from_files_sequential(files, [str(target / case) for case in CASES], save_probabilities=True)
    return {case: np.load(target / f"{case}.npz")["probabilities"] for case in CASES}


# ------------------------------------------------------------------------------------------------------ what is predicted


def test_one_fold_gives_what_nnunet_predicts(own, tmp_path):
    expected = nnunet_predictions(own, (0,), tmp_path / "stock")
    assert pseudo_label("--save_probabilities") == 0
    for case, row in table(own).items():
        np.testing.assert_array_equal(labels(own, case), read_array(tmp_path / "stock" / f"{case}.nii.gz"))
        found = np.load(folder_of(own) / "probabilities" / f"{case}.npz")["probabilities"]
        np.testing.assert_array_equal(found, expected[case])
        image, label = (
            sitk.ReadImage(str(file))
            for file in (
                own / "nnUNet_raw" / DATASET / "imagesUn" / f"{case}_0000.nii.gz",
                folder_of(own) / "labels" / f"{case}.nii.gz",
            )
        )
        assert label.GetDirection() == image.GetDirection() and label.GetSpacing() == image.GetSpacing()
        assert row["decision"] == "keep" and row["instability"] == "" and float(row["undecided"]) == 0
        assert float(row["entropy_foreground"]) == pytest.approx(foreground_entropy(found), rel=1e-5)
        confidence = class_confidence(found)
        assert int(row["voxels_lesion"]) == confidence.voxels[1] == (labels(own, case) == 2).sum()
        assert float(row["confident_organ"]) == pytest.approx(confidence.share[0], rel=1e-5)
        assert row["classes"] == "organ;lesion"
    assert sorted(table(own)) == CASES
    assert (folder_of(own) / "cases.png").stat().st_size > 1000


def test_folds_are_averaged_as_probabilities(own, tmp_path):
    one, other = (nnunet_predictions(own, (fold,), tmp_path / str(fold)) for fold in (0, 1))
    assert pseudo_label("--save_probabilities", folds=("0", "1")) == 0
    for case in CASES:
        found = np.load(folder_of(own) / "probabilities" / f"{case}.npz")["probabilities"]
        np.testing.assert_allclose(
            found, (one[case] + other[case]) / 2, atol=2e-4
        )  # nnU-Net predicts in half precision
        np.testing.assert_array_equal(labels(own, case), found.argmax(0))


def test_without_mirroring(own, tmp_path):
    expected = nnunet_predictions(own, (0,), tmp_path / "stock", mirroring=False)
    assert pseudo_label("--disable_tta") == 0
    np.testing.assert_array_equal(labels(own, "free_00"), expected["free_00"].argmax(0))


def test_background_processes_and_threads_give_the_same(own):
    assert pseudo_label("-o", "one") == 0
    assert pseudo_label("-o", "two", "-np", "2") == 0
    for case in CASES:
        np.testing.assert_array_equal(labels(own, case, "one"), labels(own, case, "two"))
    assert table(own, "one") == table(own, "two")


def test_preprocessed_labels_are_those_of_nnunet_and_images_are_not_copied(own):
    assert pseudo_label("--min_confidence", "0.6") == 0
    folder = folder_of(own) / "nnUNetPlans_2d_pseudo"
    assert sorted(os.listdir(folder)) == sorted(f"{c}{e}" for c in CASES for e in (".pkl", "_seg.b2nd"))
    images = own / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d_unlabeled"
    shutil.copy(images / "free_00.b2nd", folder)
    _, segmentation, _, properties = infer_dataset_class(str(folder))(str(folder), ["free_00"]).load_case("free_00")
    # spacing 1 everywhere, nothing cropped: preprocessing leaves the labels as they are
    np.testing.assert_array_equal(segmentation[0], labels(own, "free_00"))
    assert (segmentation[:] == 3).any()
    for label, places in properties["class_locations"].items():
        assert len(places) and (segmentation[:][tuple(places.T)] == label).all()


# --------------------------------------------------------------------------------------------------------------- selection


def test_voxels_without_confidence_have_no_decision(own):
    assert pseudo_label("--save_probabilities", "--min_confidence", "0.7") == 0
    for case, row in table(own).items():
        found = np.load(folder_of(own) / "probabilities" / f"{case}.npz")["probabilities"]
        undecided = uncertain_voxels(found, 0.7)
        np.testing.assert_array_equal(labels(own, case), np.where(undecided, 3, found.argmax(0)))
        assert float(row["undecided"]) == pytest.approx(undecided.mean(), rel=1e-4) and undecided.any()
        assert int(row["voxels_organ"]) == (found.argmax(0) == 1).sum()  # before voxels lost their decision
    assert Round.load(folder_of(own)).ignore == 3


def test_the_gate_takes_the_decision_of_classes_case_by_case(own):
    assert pseudo_label("-o", "all") == 0
    shares = {case: float(row["confident_lesion"]) for case, row in table(own, "all").items()}
    organ = min(float(row["confident_organ"]) for row in table(own, "all").values())
    middle = sorted(shares.values())[1]
    assert pseudo_label("-o", "gated", "--gate", str(min(middle, organ))) == 0
    for case, row in table(own, "gated").items():
        fails = round(shares[case], 4) < min(middle, organ)
        before = labels(own, case, "all")
        np.testing.assert_array_equal(labels(own, case, "gated"), np.where((before == 2) & fails, 3, before))
        assert row["ignored_classes"] == ("lesion" if fails else "") and row["decision"] == "keep"
    assert any(row["ignored_classes"] for row in table(own, "gated").values())


def test_a_case_of_which_no_class_passes_is_dropped_and_nothing_left_is_an_error(own, capsys):
    assert pseudo_label("--gate", "0.99") == 1
    assert "no case is kept" in capsys.readouterr().err
    assert {row["reason"] for row in table(own).values()} == {"no class passes the gate"}


def test_the_most_unstable_cases_are_dropped_against_the_round_before(own, capsys):
    assert pseudo_label() == 0
    assert pseudo_label("--previous", "round1", "--drop", "0.3", folds=("1",)) == 0
    said = capsys.readouterr().out
    assert re.search(r"organ: \d+ voxels per case; in the 3 cases of both rounds \d+ before, \d+ now", said)
    rows = table(own, "round2")
    expected = {case: changed_share(labels(own, case), labels(own, case, "round2")) for case in CASES}
    for case, row in rows.items():
        assert float(row["instability"]) == pytest.approx(expected[case], rel=1e-5)
    worst = max(expected, key=expected.get)
    assert [case for case, row in rows.items() if row["decision"] == "drop"] == [worst]
    assert "0.3 by instability" in rows[worst]["reason"]
    assert Round.load(folder_of(own, "round2")).kept == sorted(set(CASES) - {worst})
    assert not list(folder_of(own, "round2").glob(f"nnUNetPlans_2d_pseudo/{worst}*"))
    # a third round: the mean over both changes, as in FLARE22
    assert pseudo_label("--previous", "round2", folds=("0", "1")) == 0
    for case, row in table(own, "round3").items():
        second = changed_share(labels(own, case, "round2"), labels(own, case, "round3"))
        assert float(row["instability"]) == pytest.approx((expected[case] + second) / 2, rel=1e-5)


def test_a_case_follows_the_round_before_when_that_is_made_again(own, capsys):
    of_second = ("--previous", "round1", "-o", "second")
    assert pseudo_label() == 0 and pseudo_label(*of_second, folds=("0", "1")) == 0
    old = {case: row["instability"] for case, row in table(own, "second").items()}
    assert pseudo_label("-o", "round1", "--overwrite", folds=("1",)) == 0
    assert pseudo_label(*of_second, folds=("0", "1")) == 0
    new = {case: row["instability"] for case, row in table(own, "second").items()}
    changed = {c: changed_share(labels(own, c), labels(own, c, "second")) for c in CASES}
    assert new != old and {case: float(value) for case, value in new.items()} == pytest.approx(changed, rel=1e-5)
    capsys.readouterr()
    assert pseudo_label(*of_second, folds=("0", "1")) == 0
    assert "second is finished: 3 cases" in capsys.readouterr().out


def test_a_round_before_without_its_label_maps_is_not_drawn(own):
    assert pseudo_label() == 0
    shutil.rmtree(folder_of(own) / "labels")
    assert pseudo_label("--previous", "round1", "-o", "second") == 0
    assert {row["instability"] for row in table(own, "second").values()} == {""}


def test_what_a_network_has_learned_from_pseudo_labels_counts_as_learned(own):
    fold = own / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    split = {"train": ["case_00", "case_01", "case_02"], "val": ["case_03"], "seen_val": ["case_03"]}
    (fold / "split.json").write_text(json.dumps(split))
    assert pseudo_label() == 0
    assert Round.load(folder_of(own)).trained_on == ["case_00", "case_01", "case_02", "case_03"]


def test_without_a_round_before_the_entropy_decides(own):
    assert pseudo_label("--drop", "0.3") == 0
    rows = table(own)
    worst = max(rows, key=lambda case: float(rows[case]["entropy_foreground"]))
    assert [case for case, row in rows.items() if row["decision"] == "drop"] == [worst]


# ------------------------------------------------------------------------------------------------------- continued, refused


def scores_times(out: Path, name: str = "round1") -> dict[str, int]:
    return {file.stem: file.stat().st_mtime_ns for file in (folder_of(out, name) / "scores").glob("*.json")}


def test_a_killed_run_is_continued_and_gives_the_same(own, capsys):
    arguments = ["pseudo_label", "-d", "991", "-c", "2d", "-np", "1", "-f", "0", "-device", "cpu", "--no_pbar"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", ONE_CASE_DONE, *arguments], env=environment, capture_output=True, timeout=300
    )
    assert killed.returncode == 9, killed.stderr[-2000:]
    before = scores_times(own)
    assert list(before) == ["free_00"] and Round.load(folder_of(own)).finished is None
    with pytest.raises(UserError, match=r"unfinished: round1\. .*nnunet_ssl pseudo_label"):
        started(make_trainer("nnUNetTrainerPseudoLabels", own, DATASET, "2d"))
    assert main(arguments) == 0
    assert "2 cases to do, 1 kept" in capsys.readouterr().out
    after = scores_times(own)
    assert sorted(after) == CASES and after["free_00"] == before["free_00"]
    assert sorted(os.listdir(folder_of(own) / "labels")) == [f"{case}.nii.gz" for case in CASES]
    assert pseudo_label("-o", "whole") == 0
    assert table(own) == table(own, "whole")


def test_the_same_command_again_does_nothing_again(own, capsys):
    assert pseudo_label() == 0
    before, finished = scores_times(own), Round.load(folder_of(own)).finished
    assert pseudo_label() == 0
    assert "is finished: 3 cases" in capsys.readouterr().out
    assert scores_times(own) == before and Round.load(folder_of(own)).finished == finished
    assert not folder_of(own, "round2").exists()


def test_a_changed_image_is_labeled_again_and_one_that_left_goes(own):
    assert pseudo_label() == 0
    before = scores_times(own)
    folder = own / "nnUNet_raw" / DATASET / "imagesUn"
    shutil.copy(folder / "free_01_0000.nii.gz", folder / "free_00_0000.nii.gz")
    (folder / "free_02_0000.nii.gz").unlink()
    foreign = [folder_of(own) / "labels" / name for name in ("notes.txt", "mine.nii.gz", ".hidden")]
    for file in foreign:
        file.write_text("not of this command")
    left = folder_of(own) / "labels" / ".free_00.nii.gz.node-123.tmp.nii.gz"  # of a process that was killed
    left.write_text("half")
    assert pseudo_label() == 0
    assert all(file.is_file() for file in foreign) and not left.exists()
    assert not (folder_of(own) / "labels" / "free_02.nii.gz").exists()
    after = scores_times(own)
    assert sorted(after) == CASES[:2]
    assert after["free_01"] == before["free_01"] and after["free_00"] != before["free_00"]
    np.testing.assert_array_equal(labels(own, "free_00"), labels(own, "free_01"))


def test_other_settings_need_another_name_or_overwrite(own, capsys):
    assert pseudo_label("-o", "mine") == 0
    assert pseudo_label("-o", "mine", "--min_confidence", "0.6") == 1
    said = capsys.readouterr().err
    assert "min_confidence" in said and "--overwrite" in said
    assert Round.load(folder_of(own, "mine")).settings["min_confidence"] == 0
    other = ("-o", "mine", "--min_confidence", "0.6", "--overwrite")
    notes = folder_of(own, "mine") / "labels" / "notes.txt"
    notes.write_text("mine")
    assert pseudo_label(*other) == 1
    assert "labels/notes.txt" in capsys.readouterr().err and notes.is_file()
    notes.unlink()
    assert pseudo_label(*other) == 0
    assert Round.load(folder_of(own, "mine")).settings["min_confidence"] == 0.6


def test_a_round_of_other_classes_is_not_continued_or_compared_with(own, capsys):
    assert pseudo_label() == 0
    made = Round.load(folder_of(own))
    assert made.classes == {"background": 0, "organ": 1, "lesion": 2}
    made.classes = {"background": 0, "lesion": 1, "organ": 2}
    made.save()
    before = (folder_of(own) / "round.json").read_bytes()
    for arguments in ((), ("--previous", "round1", "-o", "second")):
        assert pseudo_label(*arguments) == 1
        assert "the round was made for {'background': 0, 'lesion': 1, 'organ': 2}" in capsys.readouterr().err
    assert (folder_of(own) / "round.json").read_bytes() == before and not folder_of(own, "second").exists()
    assert pseudo_label("--overwrite", "-o", "round1") == 0


def test_an_unlabeled_image_that_is_a_test_or_validation_image_is_refused(own, capsys):
    raw = own / "nnUNet_raw" / DATASET
    for place, case in (("imagesTs", "test_00"), ("imagesTr", "case_03")):
        shutil.copy(raw / place / f"{case}_0000.nii.gz", raw / "imagesUn" / "free_00_0000.nii.gz")
        assert pseudo_label() == 1
        said = capsys.readouterr().err
        assert f"free_00 is the same image as {case}" in said and "check -d 991" in said
        assert not folder_of(own).exists()
    # case_03 is a training case of fold 1
    assert pseudo_label(folds=("1",)) == 0


def test_images_that_trainings_leave_out_are_not_in_the_round(own, capsys):
    lists = [own / folder / DATASET / "unlabeled.json" for folder in ("nnUNet_raw", "nnUNet_preprocessed")]

    def of_one_patient(**patients: str) -> None:
        for file in lists:
            file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": patients}))

    of_one_patient(free_00="a", case_03="a", free_01="b", case_00="b")  # case_03 validates in fold 0, case_00 in fold 1
    assert pseudo_label() == 0
    assert "1 unlabeled image(s) are of patients with validation or test cases" in capsys.readouterr().out
    assert sorted(table(own)) == ["free_01", "free_02"]
    trainer = make_trainer("nnUNetTrainerPseudoLabels", own, DATASET, round_name="round1")
    assert started(trainer).unlabeled_pool == ["free_01", "free_02"]
    assert pseudo_label("-o", "of_both", folds=("0", "1")) == 0  # each fold uses what the other leaves out
    assert sorted(table(own, "of_both")) == CASES
    of_one_patient(free_00="a", test_00="a")
    assert pseudo_label("-o", "test", folds=("0", "1")) == 0
    assert sorted(table(own, "test")) == ["free_01", "free_02"]
    of_one_patient(**dict.fromkeys([*CASES, "test_00"], "a"))
    assert pseudo_label("-o", "none") == 1
    assert "All 3 unlabeled images are of patients with validation or test cases" in capsys.readouterr().err


def test_a_case_by_the_name_of_a_test_case_is_refused(own, capsys):
    raw = own / "nnUNet_raw" / DATASET / "imagesUn"
    (raw / "free_00_0000.nii.gz").rename(raw / "test_00_0000.nii.gz")
    assert pseudo_label() == 1
    assert "test_00 is the same case of the test set" in capsys.readouterr().err


def test_labels_that_are_hidden_in_one_fold_cannot_be_labeled_by_another(own, capsys):
    lists = [own / folder / DATASET / "unlabeled.json" for folder in ("nnUNet_raw", "nnUNet_preprocessed")]
    splits = [file.with_name("splits_final.json") for file in lists]
    for file, split in zip(lists, splits, strict=True):
        content, folds = json.loads(file.read_text()), json.loads(split.read_text())
        folds[0]["train"].remove("case_00")
        content["hidden_labels"] = {"0": ["case_00"]}
        file.write_text(json.dumps(content))
        split.write_text(json.dumps(folds))
    assert pseudo_label(folds=("0", "1")) == 1
    assert "hide other labels than fold 0" in capsys.readouterr().err
    assert pseudo_label(folds=("all",)) == 1
    assert "hides labels of fold(s) 0" in capsys.readouterr().err
    assert pseudo_label() == 0
    assert sorted(table(own)) == ["case_00", *CASES]
    assert "case_00" not in Round.load(folder_of(own)).trained_on


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["-tr", "nnUNetTrainerMeanTeacher"],
            ["checkpoint_final.pth", "nnUNetv2_train 991 2d 0 -tr nnUNetTrainerMean"],
        ),
        (["-chk", "checkpoint_latest.pth"], ["checkpoint_latest.pth", "does not exist"]),
        (["-p", "otherPlans"], ["otherPlans.json", "Plans found: nnUNetPlans"]),
        (["--min_confidence", "1.5"], ["--min_confidence 1.5", "from 0 to below 1"]),
        (["--drop", "-0.1"], ["--drop -0.1"]),
        (["-o", "a/b"], ["-o a/b", "letters"]),
        (["--previous", "round7"], ["round7", "finished: none"]),
        (["--map", "1=organ"], ["--map", "--from"]),
        (["--from", "x", "--gate", "0.8"], ["--gate, -device"]),
        (["-c", "3d_cascade_fullres"], ["cascade", "3d_lowres"]),
        (["-c", "5d"], ["5d", "Allowed: 2d"]),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(own, capsys, arguments, words):
    assert pseudo_label(*arguments) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not folder_of(own).exists()


def test_folds_must_exist(own, capsys):
    assert pseudo_label(folds=()) == 1
    assert "-f is missing" in capsys.readouterr().err
    assert pseudo_label(folds=("7",)) == 1
    assert "0 to 1 are allowed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pseudo_label(folds=("first",))


@pytest.mark.parametrize(
    ("key", "value"), [("labels", {"background": 0, "lesion": 1, "organ": 2}), ("channel_names", {"0": "CT"})]
)
def test_a_model_of_other_labels_or_channels_is_refused(own, capsys, key, value):
    file = own / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    assert pseudo_label() == 1
    assert f"dataset.json: '{key}' is" in capsys.readouterr().err


@pytest.mark.parametrize("as_written", [str, lambda code: [code]], ids=["text", "list"])
def test_labels_may_be_written_as_text_and_as_lists(own, as_written):
    model = Path("nnUNet_results", DATASET, "nnUNetTrainer__nnUNetPlans__2d")
    for folder in (Path("nnUNet_raw", DATASET), Path("nnUNet_preprocessed", DATASET), model):
        content = json.loads((own / folder / "dataset.json").read_text())
        written = {name: as_written(code) if code else code for name, code in content["labels"].items()}
        (own / folder / "dataset.json").write_text(json.dumps(content | {"labels": written}))
    assert pseudo_label() == 0
    assert set(table(own)) == set(CASES)


def test_a_model_that_would_execute_code_is_not_loaded_without_trust(own, tmp_path, capsys):
    fold = own / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    spoil_checkpoint(fold / "checkpoint_final.pth", tmp_path / "executed")
    assert pseudo_label() == 1
    said = capsys.readouterr().err
    assert "checkpoint_final.pth names os.makedirs" in said and "--trust" in said
    assert not (tmp_path / "executed").exists() and not folder_of(own).exists()
    assert pseudo_label("--trust") == 0
    assert (tmp_path / "executed").is_dir() and sorted(table(own)) == CASES


def test_a_preprocessed_case_that_would_execute_code_is_not_read_without_trust(own, tmp_path, capsys):
    file = own / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d" / "case_00.pkl"
    properties = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps({**properties, "more": MakesFolder(tmp_path / "executed")}))
    assert pseudo_label() == 1
    said = capsys.readouterr().err
    assert "case_00.pkl names os.makedirs" in said and "--trust" in said
    assert not (tmp_path / "executed").exists() and not folder_of(own).exists()
    assert pseudo_label("--trust") == 0
    assert (tmp_path / "executed").is_dir()


def test_a_full_disk_is_named_and_what_is_finished_is_kept(own, capsys, monkeypatch):
    whole, written = round_cases.write_named_atomically, []

    def write(file, ending, write_to):
        written.append(file)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        whole(file, ending, write_to)

    monkeypatch.setattr(round_cases, "write_named_atomically", write)
    assert pseudo_label() == 1
    said = capsys.readouterr().err
    assert "free_01.nii.gz cannot be written" in said and "MiB are free" in said
    monkeypatch.undo()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(own / name))
    assert pseudo_label() == 0
    assert "2 cases to do, 1 kept" in capsys.readouterr().out


def test_a_truncated_label_file_is_noticed_when_it_is_written(tmp_path):
    def half(name):
        whole = tmp_path / "whole.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9, 9), np.uint8)), str(whole))
        Path(name).write_bytes(whole.read_bytes()[:-6])

    with pytest.raises(UserError, match=r"case\.nii\.gz cannot be written"):
        round_cases._write_file(tmp_path / "labels" / "case.nii.gz", ".nii.gz", half)
    assert os.listdir(tmp_path / "labels") == []


# --------------------------------------------------------------------------------------------- label maps made elsewhere


def write_maps(
    own: Path, folder: Path, change=lambda image: image, cases=CASES, number: int = 5
) -> dict[str, np.ndarray]:
    """A ball of this number in every case."""
    folder.mkdir(exist_ok=True)
    made = {}
    for case in cases:
        image = sitk.ReadImage(str(own / "nnUNet_raw" / DATASET / "imagesUn" / f"{case}_0000.nii.gz"))
        ball = np.zeros(sitk.GetArrayFromImage(image).shape, np.uint8)
        ball[5:12, 10:30, 10:30] = number
        ball[7:9, 15:20, 15:20] = 9
        made[case] = ball
        label = sitk.GetImageFromArray(ball)
        label.CopyInformation(image)
        sitk.WriteImage(change(label), str(folder / f"{case}.nii.gz"))
    return made


def test_label_maps_made_elsewhere_become_a_round(own, tmp_path):
    made = write_maps(own, tmp_path / "maps", cases=CASES[:2])
    (tmp_path / "map.json").write_text(json.dumps({"5": "organ", "other": 2}))
    assert pseudo_label("--from", str(tmp_path / "maps"), "--map", str(tmp_path / "map.json"), folds=()) == 0
    for case, ball in made.items():
        np.testing.assert_array_equal(labels(own, case), np.select([ball == 5, ball == 9], [1, 2], 0))
    rows = table(own)
    assert sorted(rows) == CASES[:2]
    row = rows["free_00"]
    assert row["entropy"] == row["confident_organ"] == row["instability"] == ""
    assert int(row["voxels_organ"]) == (made["free_00"] == 5).sum() and row["classes"] == "organ;lesion"
    trainer = started(make_trainer("nnUNetTrainerPseudoLabels", own, DATASET, "2d", results=tmp_path / "results"))
    assert trainer.unlabeled_pool == CASES[:2]


def test_without_a_fold_a_validation_image_of_any_fold_is_refused(own, tmp_path, capsys):
    raw = own / "nnUNet_raw" / DATASET
    write_maps(own, tmp_path / "maps")
    arguments = ("--from", str(tmp_path / "maps"), "--map", "5=1", "9=2")
    for case in ("case_03", "case_00"):  # the validation cases of fold 0 and 1
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", raw / "imagesUn" / "free_00_0000.nii.gz")
        assert pseudo_label(*arguments, folds=()) == 1
        said = capsys.readouterr().err
        assert f"free_00 is the same image as {case} of the validation set" in said and "name it with -f" in said
        assert not folder_of(own).exists()
    of_fold_0 = ["pseudo_label", "-d", "991", "-c", "2d", "-np", "1", "--no_pbar", *arguments, "-f", "0"]
    assert main(of_fold_0) == 0  # which trains on case_00


def test_a_round_is_not_replaced_by_itself_or_by_what_is_refused(own, tmp_path, capsys):
    write_maps(own, tmp_path / "maps")
    arguments = ("--from", str(tmp_path / "maps"), "-o", "mine", "--overwrite")
    assert pseudo_label(*arguments, "--map", "5=1", "9=2", folds=()) == 0
    before = contents(folder_of(own, "mine"))
    itself = ("--from", str(folder_of(own, "mine") / "labels"), "-o", "mine", "--overwrite")
    assert pseudo_label(*itself, folds=()) == 1
    assert "lies in" in capsys.readouterr().err and contents(folder_of(own, "mine")) == before
    assert pseudo_label(*arguments, "--map", "5=1", folds=()) == 1  # 9 is not named
    assert "holds 9" in capsys.readouterr().err and contents(folder_of(own, "mine")) == before
    assert pseudo_label(*arguments, "--map", "5=1", "9=2", "--previous", "mine", folds=()) == 1
    assert "the round to be made itself" in capsys.readouterr().err and contents(folder_of(own, "mine")) == before
    assert pseudo_label(*arguments, "--map", "5=1", "9=1", folds=()) == 0
    assert set(np.unique(labels(own, "free_00", "mine"))) == {0, 1}


def test_a_label_map_does_not_vanish_for_an_ending_in_upper_case(own, tmp_path, capsys):
    write_maps(own, tmp_path / "maps")
    file = next((tmp_path / "maps").iterdir())
    file.rename(file.with_suffix(file.suffix.upper()))
    assert pseudo_label("--from", str(tmp_path / "maps"), "--map", "5=1", "9=2", folds=()) == 1
    assert f"Rename it to {file.name}" in capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("words", [("5=1", "5=background"), ("5=1", "05=2"), ("other=1", "other=2")])
def test_a_number_that_is_mapped_twice_is_refused(own, tmp_path, capsys, words):
    write_maps(own, tmp_path / "maps")
    assert pseudo_label("--from", str(tmp_path / "maps"), "--map", *words, folds=()) == 1
    assert "twice" in capsys.readouterr().err


def test_a_number_may_mean_no_decision_and_rounds_can_be_compared(own, tmp_path):
    made = write_maps(own, tmp_path / "maps")
    arguments = ("--from", str(tmp_path / "maps"), "--map", "5=1", "9=ignore")
    assert pseudo_label(*arguments, folds=()) == 0
    np.testing.assert_array_equal(
        labels(own, "free_00"), np.select([made["free_00"] == 5, made["free_00"] == 9], [1, 3])
    )
    write_maps(own, tmp_path / "maps", cases=["free_00"], number=0)
    assert pseudo_label(*arguments, "--previous", "round1", folds=()) == 0
    rows = table(own, "round2")
    assert float(rows["free_00"]["instability"]) == (made["free_00"] == 5).sum()  # of no foreground voxel: per 1
    assert (rows["free_01"]["instability"], rows["free_01"]["decision"]) == ("0", "keep")
    assert rows["free_00"]["reason"] == "no foreground, which every labeled case has"


def test_a_label_map_that_has_changed_is_taken_again(own, tmp_path):
    write_maps(own, tmp_path / "maps")
    arguments = ("--from", str(tmp_path / "maps"), "--map", "5=1", "9=2")
    assert pseudo_label(*arguments, folds=()) == 0
    before = scores_times(own)
    write_maps(own, tmp_path / "maps", cases=["free_01"], number=9)
    assert pseudo_label(*arguments, folds=()) == 0
    after = scores_times(own)
    assert {case for case in after if after[case] != before[case]} == {"free_01"}
    assert set(np.unique(labels(own, "free_01"))) == {0, 2}


def moved(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((0.0, 5.0, 0.0))
    return image


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda image: image, (), ["free_00.nii.gz", "holds 5, 9", "allowed are 0, 1, 2. ", "--map 5=CLASS"]),
        # a fourth class, and not "no decision"
        (lambda image: image * 0 + 3, (), ["holds 3", "allowed are 0, 1, 2. "]),
        (lambda image: image, ("--map", "5=3", "9=1"), ["5=3", "the numbers 0, 1, 2 of dataset.json"]),
        (lambda image: image, ("--map", "5=organ"), ["holds 9", "--map other=background"]),
        (lambda image: image, ("--map", "5=liver", "9=1"), ["5=liver", "background, organ, lesion, ignore"]),
        (lambda image: image, ("--map", "five=organ"), ["five=organ", "whole numbers"]),
        (lambda image: image, ("--map", "5:organ"), ["5:organ does not exist", "pairs such as 5=liver"]),
        (lambda image: image, ("--map", "5=organ", "9"), ["--map 9", "NUMBER=CLASS"]),
        (lambda image: image[1:], ("--map", "other=1"), ["shape (20, 40, 35)", "(20, 40, 36)"]),
        (moved, ("--map", "other=1"), ["origin (0, 5, 0)", "(0, 0, 0)", "Resample"]),
        (lambda image: image, ("--map", "other=1", "--drop", "0.5"), ["--drop", "--previous"]),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(own, tmp_path, capsys, change, arguments, words):
    write_maps(own, tmp_path / "maps", change)
    assert pseudo_label("--from", str(tmp_path / "maps"), *arguments, folds=()) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    if folder_of(own).exists():
        assert Round.load(folder_of(own)).finished is None


@pytest.mark.parametrize("case", ["test_00", "case_03", "nobody"])
def test_label_maps_of_cases_that_are_not_unlabeled_are_refused(own, tmp_path, capsys, case):
    write_maps(own, tmp_path / "maps")
    shutil.copy(tmp_path / "maps" / "free_00.nii.gz", tmp_path / "maps" / f"{case}.nii.gz")
    assert pseudo_label("--from", str(tmp_path / "maps"), "--map", "other=1", folds=()) == 1
    said = capsys.readouterr().err
    assert f"{case} is (are) not unlabeled" in said and "free_00" in said
    (tmp_path / "none").mkdir()
    assert pseudo_label("--from", str(tmp_path / "none"), folds=()) == 1
    assert "holds no label map" in capsys.readouterr().err


def test_the_number_behind_the_last_class_is_none_of_a_data_set_without_ignore_label(datasets):
    for ignore in (False, True):
        out, dataset = datasets(ignore=ignore)
        content = json.loads((out / "nnUNet_raw" / dataset / "dataset.json").read_text())
        assert CodeMap.of(None, content).codes == {n: n for n in range(3 + ignore)}
        assert CodeMap.of(["5=ignore"], content).codes == {0: 0, 5: 3}


def test_regions_are_named_by_numbers(datasets):
    out, dataset = datasets(regions=True)
    content = json.loads((out / "nnUNet_raw" / dataset / "dataset.json").read_text())
    found = CodeMap.of(["7=1", "8=lesion", "9=ignore"], content)
    assert found.codes == {0: 0, 7: 1, 8: 2, 9: 3} and found.other is None
    with pytest.raises(UserError, match="whole"):
        CodeMap.of(["7=whole"], content)


# ------------------------------------------------------------------------------------------------------------ two rounds


def test_two_rounds_from_end_to_end(own, pools_of_threads):
    """vanilla nnU-Net -> round1 -> student -> round2 against round1 -> its student, in all three commands' own code."""
    assert pseudo_label("--min_confidence", "0.55") == 0
    for number in (1, 2):
        name = f"nnUNetTrainerPseudoLabels_1epochs_2iters_seed{number}"
        trainer = make_trainer(name, own, DATASET, "2d")
        trainer.run_training()
        trainer.perform_actual_validation()
        folder = Path(trainer.output_folder)
        assert (folder / "checkpoint_final.pth").is_file() and (folder / "validation" / "summary.json").is_file()
        state = torch.load(folder / "checkpoint_final.pth", weights_only=False)["ssl_state"]
        assert f"round{number}" in str(state)
        if number == 1:
            assert pseudo_label("-tr", name, "--previous", "round1", "--drop", "0.3") == 0
    made = Round.load(folder_of(own, "round2"))
    assert made.settings["trainer"] == "nnUNetTrainerPseudoLabels_1epochs_2iters_seed1" and len(made.kept) == 2
    assert sorted(made.trained_on) == ["case_00", "case_01", "case_02"]


def test_regions_from_end_to_end(tmp_path, monkeypatch):
    out = tmp_path / "regions"
    make_dataset(out, regions=True, configurations=("2d",))
    train(out, 0, 40)
    assert pseudo_label("--save_probabilities", "--min_confidence", "0.6") == 0
    for case in CASES:
        found = np.load(folder_of(out) / "probabilities" / f"{case}.npz")["probabilities"]
        inside = np.select([found[1] > 0.5, found[0] > 0.5], [2, 1])  # regions_class_order: the lesion over the whole
        np.testing.assert_array_equal(labels(out, case), np.where(uncertain_voxels(found, 0.6, "sigmoid"), 3, inside))
        row = table(out)[case]
        assert int(row["voxels_lesion"]) == (inside == 2).sum()
        assert int(row["voxels_whole"]) == (inside > 0).sum()
    trainer = started(make_trainer("nnUNetTrainerPseudoLabels", out, DATASET, "2d", results=tmp_path / "student"))
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["pseudo"])


def test_preprocess_unlabeled_prepares_rounds_for_other_configurations(own, tmp_path, capsys):
    assert pseudo_label() == 0
    with pytest.raises(UserError, match=r"nnUNetPlans_3d_pseudo.*preprocess_unlabeled -d 991 -c 3d_fullres"):
        started(make_trainer("nnUNetTrainerPseudoLabels", own, DATASET, "3d_fullres", results=tmp_path / "student"))
    assert main(["preprocess_unlabeled", "-d", "991", "-c", "3d_fullres", "-np", "1", "--no_pbar"]) == 0
    assert "pseudo labels: 3 done" in capsys.readouterr().out
    assert len(list(folder_of(own).glob("nnUNetPlans_3d_pseudo/*_seg.b2nd"))) == 3
