"""Test cases are predicted by stock nnU-Net, and again only when something has changed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.evaluation import runs as results_of
from nnunet_ssl.evaluation.test_predictions import (
    PredictionSettings,
    TestCases,
    are_there,
    find_test_cases,
    predict_test,
)
from tests.helpers.hostile import spoil_checkpoint
from tests.helpers.study import DATASET, SHAPE, A, Study, cells, refused, run, truth, write


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    return Study.in_environment(tmp_path, monkeypatch)


def train_nothing(study: Study, trainer_class: type, fold: int, seed: int) -> Path:
    """What a finished training leaves behind, of an untrained network, written by nnU-Net itself."""
    torch.manual_seed(seed)
    preprocessed = study.preprocessed / "nnUNetPlans_2d"
    preprocessed.mkdir(exist_ok=True)
    (preprocessed / "case_0.b2nd").touch()  # nnU-Net looks at the ending only
    trainer = trainer_class(study.plans | {"continue_training": False}, "2d", fold, study.dataset, torch.device("cpu"))
    trainer.initialize()
    folder = Path(trainer.output_folder)
    trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    for name, content in (("plans", study.plans), ("dataset", study.dataset)):
        (folder.parent / f"{name}.json").write_text(json.dumps(content))
    study.write_log(folder, len(study.splits[fold]["train"]), len(study.splits[fold]["val"]))
    return folder


@pytest.fixture
def predictions(monkeypatch):
    """Replaces the prediction itself by copies of the truth; the list of what was asked for."""
    calls = []

    def predict(self, images, outputs, folder_with_segs_from_prev_stage=None, **options):
        calls.append(
            {
                "cases": [Path(output).name for output in outputs],
                "folder": Path(outputs[0]).parent,
                "previous": folder_with_segs_from_prev_stage,
                "mirroring": self.use_mirroring,
                "parameters": len(self.list_of_parameters),
            }
        )
        for i, output in enumerate(outputs):
            write(truth(i), Path(f"{output}.nii.gz"))

    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", predict)
    return calls


SETTINGS = PredictionSettings(device="cpu", num_processes=1)


def test_test_cases_are_predicted_by_stock_nnunet_and_equal_its_own_prediction(study):
    study.add_test_cases(2)
    train_nothing(study, nnUNetTrainer_5epochs, 0, seed=0)
    output = run(["nnUNetTrainer_5epochs"], test=True, settings=SETTINGS)
    assert output.name == "compare_2d_0_test"
    report = (output / "compare.md").read_text()
    assert "yes: imagesTs against labelsTs" in report and "with mirroring" in report
    table = cells(output)
    assert set(table["case"]) == {"test_0", "test_1"}

    model = study.folder("nnUNetTrainer_5epochs").parent
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    direct = study.results / "direct"
    direct.mkdir()
    predictor.predict_from_files_sequential(str(study.raw / "imagesTs"), str(direct))
    for case in ("test_0", "test_1"):
        arrays = [
            sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))
            for folder in (direct, model / "test_folds_0")
        ]
        np.testing.assert_array_equal(*arrays)
        assert len(np.unique(arrays[0])) > 1
        dice = compute_metrics(
            str(study.raw / "labelsTs" / f"{case}.nii.gz"), str(direct / f"{case}.nii.gz"), SimpleITKIO(), [1]
        )["metrics"][1]["Dice"]
        rows = table[(table["case"] == case) & (table["class"] == "organ") & (table["metric"] == "Dice")]
        ours = rows["value"].item()
        assert ours == pytest.approx(100 * dice)


def test_predictions_are_kept_and_made_again_only_when_checkpoint_or_images_change(study, predictions):
    study.add_test_cases()
    checkpoint = train_nothing(study, nnUNetTrainer, 0, seed=0) / "checkpoint_final.pth"
    options = {"trainers": [A], "test": True, "settings": SETTINGS, "overwrite": True}
    report = (run(**options) / "compare.md").read_text()
    assert "100.00" in report and len(predictions) == 1
    assert predictions[0]["cases"] == ["test_0", "test_1", "test_2"] and predictions[0]["mirroring"]
    os.utime(checkpoint)
    run(**options)
    assert len(predictions) == 1
    train_nothing(study, nnUNetTrainer, 0, seed=1)
    run(**options)
    assert len(predictions) == 2
    write(np.zeros(SHAPE, np.float32), study.raw / "imagesTs" / "test_1_0000.nii.gz")
    run(**options)
    assert len(predictions) == 3
    run(**(options | {"settings": PredictionSettings(device="cpu", mirroring=False)}))
    assert len(predictions) == 4 and not predictions[3]["mirroring"]
    names = sorted(path.name for path in checkpoint.parents[1].glob("test_folds*"))
    assert names == ["test_folds_0", "test_folds_0_no_mirroring"]


def test_predictions_are_made_again_when_the_spacing_beside_a_tiff_changes(study, predictions):
    study.plans["image_reader_writer"] = "Tiff3DIO"
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    image, spacing = (study.raw / "imagesTs" / name for name in ("test_0_0000.tif", "test_0.json"))
    image.parent.mkdir()
    tifffile.imwrite(image, np.zeros(SHAPE, np.float32))
    experiment, cases = results_of.Experiment(DATASET, "2d"), TestCases({"test_0": [image]}, {"test_0": image}, 0)
    for content, times in (([3, 1, 0.5], 1), ([3, 1, 0.5], 1), ([6, 1, 0.5], 2)):
        spacing.write_text(json.dumps({"spacing": content}))
        predict_test(experiment, A, [0], cases, SETTINGS)
        assert len(predictions) == times


def test_a_prediction_that_has_changed_is_not_taken_for_nnunets(study, predictions):
    study.add_test_cases()
    model = train_nothing(study, nnUNetTrainer, 0, seed=0).parent
    options = {"trainers": [A], "test": True, "settings": SETTINGS, "overwrite": True}
    run(**options)
    prediction = model / "test_folds_0" / "test_1.nii.gz"
    shutil.copyfile(prediction, model / "copy")
    os.replace(model / "copy", prediction)  # another time, the same content
    run(**options)
    assert len(predictions) == 1
    write(truth(2), prediction)
    refused(
        r"test_folds_0 holds 1 file\(s\) that were not written by nnunet_ssl or have changed since: test_1", **options
    )
    prediction.unlink()
    run(**options)
    assert len(predictions) == 2


def test_an_interrupted_prediction_is_not_taken_as_complete(study, predictions, monkeypatch):
    study.add_test_cases()
    model = train_nothing(study, nnUNetTrainer, 0, seed=0).parent
    complete = nnUNetPredictor.predict_from_files

    def interrupted(self, images, outputs, **options):
        complete(self, images[:1], outputs[:1], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([A], test=True, settings=SETTINGS)
    assert not (model / "test_folds_0").exists() and not (study.results / "compare_2d_0_test").exists()
    monkeypatch.setattr(nnUNetPredictor, "predict_from_files", complete)
    run([A], test=True, settings=SETTINGS)
    assert predictions[-1]["cases"] == ["test_0", "test_1", "test_2"]
    assert [path.name for path in model.glob("test_folds*")] == ["test_folds_0"]


def test_several_folds_predict_the_test_cases_as_one_ensemble(study, predictions):
    study.add_test_cases()
    for fold in (0, 1):
        train_nothing(study, nnUNetTrainer, fold, seed=fold)
    output = run([A], folds=["0", "1"], test=True, settings=SETTINGS)
    assert predictions[0]["parameters"] == 2 and set(cells(output)["fold"]) == {"0_1"}
    assert "ensemble of 2 folds" in (output / "compare.md").read_text()
    assert (study.folder(A).parent / "test_folds_0_1").is_dir()


def test_a_cascade_gets_the_predictions_of_its_first_stage(study, predictions, monkeypatch):
    study.add_test_cases()

    def load(self, folder, folds, checkpoint_name):
        self.list_of_parameters, self.network, self.plans_manager = [{}], torch.nn.Identity(), PlansManager(study.plans)

    monkeypatch.setattr(nnUNetPredictor, "initialize_from_trained_model_folder", load)
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        folder = study.folder(A, configuration=configuration)
        folder.mkdir(parents=True)
        (folder.parent / "dataset.json").write_text(json.dumps(study.dataset))
        (folder.parent / "plans.json").write_text(json.dumps(study.plans))
        checkpoint = {"network_weights": {}, "trainer_name": A, "init_args": {"configuration": configuration}}
        torch.save(checkpoint, folder / "checkpoint_final.pth")
    experiment = results_of.Experiment(DATASET, "3d_cascade_fullres")
    cases = find_test_cases(experiment, [A], ".nii.gz")
    predict_test(experiment, A, (0,), cases, SETTINGS)
    first_stage = study.folder(A, configuration="3d_lowres").parent / "test_folds_0"
    assert [call["previous"] for call in predictions] == [None, str(first_stage)]
    assert first_stage.is_dir()


def test_a_checkpoint_that_would_execute_code_is_not_read_without_trust(study, tmp_path, predictions):
    study.add_test_cases()
    study.add_run(A, error=1)
    folder = train_nothing(study, nnUNetTrainer, 0, seed=0)
    spoil_checkpoint(folder / "checkpoint_final.pth", tmp_path / "executed")
    for test in (False, True):
        refused(r"checkpoint_final.pth names os.makedirs.*--trust", trainers=[A], test=test, settings=SETTINGS)
    assert not (tmp_path / "executed").exists() and not predictions
    run([A], test=True, settings=replace(SETTINGS, trust=True))
    assert (tmp_path / "executed").is_dir() and predictions


def test_images_without_a_reference_are_left_out_and_counted(study, predictions):
    study.add_test_cases()
    trainers = [A, "nnUNetTrainer_5epochs"]
    for trainer_class in (nnUNetTrainer, nnUNetTrainer_5epochs):
        train_nothing(study, trainer_class, 0, seed=0)
    (study.raw / "labelsTs" / "test_2.nii.gz").unlink()
    output = run(trainers, test=True, settings=SETTINGS)
    assert "1 images of imagesTs have no reference" in (output / "compare.md").read_text()
    assert [call["cases"] for call in predictions] == [["test_0", "test_1"]] * 2
    assert set(cells(output)["trainer"]) == set(trainers)


def test_test_runs_whose_splits_differ_are_refused_before_anything_is_predicted(study, predictions):
    study.add_test_cases()
    study.write_log(train_nothing(study, nnUNetTrainer, 0, seed=0), train=3, val=7)
    refused("3 training cases, 1 in splits_final.json", trainers=[A], test=True, settings=SETTINGS)
    assert not predictions


def rename(file: Path, name: str) -> None:
    file.rename(file.with_name(name))


def change_ending(file: Path) -> None:
    """Of the raw data set: its training images, too, so that it is sound."""
    file.write_text(file.read_text().replace(".nii.gz", ".mha"))
    for image in [*file.parent.glob("imagesTr/*"), *file.parent.glob("labelsTr/*")]:
        sitk.WriteImage(sitk.ReadImage(str(image)), str(image).replace(".nii.gz", ".mha"))
        image.unlink()
    shutil.rmtree(file.parent / "imagesTs")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda study: shutil.rmtree(study.raw / "labelsTs"), "labelsTs holds no label file"),
        (lambda study: (study.raw / "imagesTs" / "test_1_0000.nii.gz").unlink(), "no image CASE_0000.nii.gz .* test_1"),
        (
            lambda study: rename(study.raw / "imagesTs" / "test_1_0000.nii.gz", "test_1_0001.nii.gz"),
            "test_1_0000.* does not ex",
        ),
        (
            lambda study: rename(study.raw / "imagesTs" / "test_1_0000.nii.gz", "test_1.nii.gz"),
            "must be named CASE_XXXX",
        ),
        (lambda study: change_ending(study.raw / "dataset.json"), "a file in labelsTs must be named CASE.mha"),
        (lambda study: (study.folder(A) / "checkpoint_final.pth").unlink(), "-tr nnUNetTrainer --c.*-chk"),
        (lambda study: (study.folder(A) / "checkpoint_final.pth").write_bytes(b"broken"), "it is damaged"),
        (lambda study: (study.folder(A).parent / "test_folds_0").mkdir(), "was not written by this command"),
    ],
)
def test_what_is_missing_for_test_predictions_is_named(study, predictions, damage, match):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    damage(study)
    refused(match, trainers=[A], test=True, settings=SETTINGS)
    assert not predictions


@pytest.mark.parametrize("trainer", [A, "nnUNetTrainer_5epochs"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", {"background": 0, "lesion": 1, "organ": 2}),
        ("labels", {"background": 0, "organ": 1}),
        ("channel_names", {"0": "CT"}),
    ],
)
def test_models_of_other_classes_or_channels_are_refused(study, predictions, trainer, key, value):
    study.add_test_cases()
    for trainer_class in (nnUNetTrainer, nnUNetTrainer_5epochs):
        train_nothing(study, trainer_class, 0, seed=0)
    # of the raw data set, or of one model where all have to agree on the classes
    places = [study.raw] if key == "labels" else [study.folder(trainer).parent]
    for place in places:
        (place / "dataset.json").write_text(json.dumps(study.dataset | {key: value}))
    refused(
        rf"dataset\.json: '{key}' is .* but .*nnUNet_raw.*dataset\.json has",
        trainers=[A, "nnUNetTrainer_5epochs"],
        test=True,
        settings=SETTINGS,
    )
    assert not predictions


@pytest.mark.parametrize("as_written", [str, lambda code: [code]], ids=["text", "list"])
def test_the_same_classes_written_in_another_way_are_compared(study, predictions, as_written):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    labels = {name: as_written(code) if code else code for name, code in study.labels.items()}
    (study.raw / "dataset.json").write_text(json.dumps(study.dataset | {"labels": labels}))
    run([A], test=True, settings=SETTINGS)
    assert predictions


@pytest.mark.parametrize("values", [(0, 255), (0, 1, 7)], ids=str)
def test_references_with_numbers_of_no_class_are_refused_before_anything_is_predicted(study, predictions, values):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    reference = np.resize(np.array(values, np.uint8), SHAPE)
    write(reference, study.raw / "labelsTs" / "test_1.nii.gz")
    refused(
        rf"test_1\.nii\.gz: holds {values[-1]}; allowed in a reference are \[0, 1, 2\]",
        trainers=[A],
        test=True,
        settings=SETTINGS,
    )
    assert not predictions


def test_hidden_files_are_no_test_cases(study):
    study.add_test_cases(1)
    for folder in ("imagesTs", "labelsTs"):
        (study.raw / folder / "._test_0.nii.gz").write_bytes(b"macOS")
    cases = find_test_cases(results_of.Experiment(DATASET, "2d"), [], ".nii.gz")
    assert list(cases.references) == list(cases.images) == ["test_0"] and cases.left_out == 0


def test_a_missing_gpu_is_named(study, predictions, monkeypatch):
    study.add_test_cases()
    train_nothing(study, nnUNetTrainer, 0, seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("no CUDA device. Predict with -device cpu", trainers=[A], test=True)


@pytest.mark.parametrize("predictions", [3, ["test_0.nii.gz"], "test_0.nii.gz", {}])
def test_a_record_that_names_no_hashes_does_not_hold(tmp_path, predictions):
    (tmp_path / "test_0.nii.gz").write_bytes(b"x")
    assert are_there(tmp_path, predictions) == (predictions == {})
