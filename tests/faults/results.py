"""Results of trained models, spoiled, for `nnunet_ssl compare`, `export`, and `pseudo_label` with a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl import cli
from tests.faults.spoiling import (
    Row,
    Scene,
    Spoil,
    Spoiled,
    broken_json,
    changed_json,
    content,
    damaged,
    gone,
    nothing,
    voxels,
)
from tests.helpers import study, synthetic
from tests.helpers.study import A, B, Study
from tests.helpers.training import make_trainer

RESULTS = f"nnUNet_results/{study.DATASET}"
FIRST, SECOND = (f"{RESULTS}/{trainer}__nnUNetPlans__2d" for trainer in (A, B))
CHECKPOINT = "fold_0/checkpoint_final.pth"


def _rows(command: str, rows: list, right: list[tuple[str, Spoil]] = ()) -> list[Spoiled]:
    table = [Spoiled(f"{command} {row[0]}", *row[1:3], (command,), (), *row[3:]) for row in rows]
    return table + [Spoiled(f"{command} {name}", spoil, "", (), (command,)) for name, spoil in right]


def _checkpoint(file: str, change: Callable[[dict], object]) -> Spoil:
    """As `changed_json`."""

    def spoil(root: Path) -> None:
        held = torch.load(root / file, map_location="cpu", weights_only=False)
        changed = change(held)
        torch.save(held if changed is None else changed, root / file)

    return spoil


def _without(key: str) -> Callable[[dict], object]:
    return lambda held: held.pop(key) and None


def checkpoints(file: str) -> list[Row]:
    """Ways in which a file is no checkpoint."""

    def cut_off(root: Path) -> None:
        (root / file).write_bytes((root / file).read_bytes()[:-200])

    def a_folder(root: Path) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return [
        (f"checkpoint {name}", spoil, words)
        for name, spoil, words in (
            ("empty", content(b"", file), "it is damaged"),
            ("a web page", content(b"<html>404</html>", file), "it is damaged"),
            ("a pickle's beginning", content(b"\x80\x02}q\x00(X\x05", file), "it is damaged"),
            ("of a class that is gone", content(b"cnowhere\nGone\n.", file), "it is damaged"),
            ("cut off", cut_off, "it is damaged"),
            ("a list", _checkpoint(file, lambda held: [1]), "no checkpoint of nnU-Net"),
            ("weights alone", _checkpoint(file, lambda held: held["network_weights"]), "key 'network_weights'"),
            ("a folder", a_folder, CHECKPOINT),
        )
    ]


# ---------------------------------------------------------------------------------------------------------------- compare


def write_validated(root: Path) -> None:
    """Two trainers with their final validation."""
    of_study = Study(root)
    of_study.add_run(A, error=3)
    of_study.add_run(B, error=1, record_split=True)


def _validated_rows() -> list:
    dataset, plans = f"{FIRST}/dataset.json", f"{FIRST}/plans.json"
    summary, split = f"{FIRST}/fold_0/validation/summary.json", f"{SECOND}/fold_0/split.json"
    prediction = f"{FIRST}/fold_0/validation/case_3.nii.gz"
    reference = f"nnUNet_preprocessed/{study.DATASET}/gt_segmentations/case_3.nii.gz"
    splits = f"nnUNet_preprocessed/{study.DATASET}/splits_final.json"

    def with_key(file: str, key: str, value: object) -> Spoil:
        return changed_json(file, lambda held: {**held, key: value})

    def per_case(change: Callable[[dict], object]) -> Spoil:
        return changed_json(summary, lambda held: change(held["metric_per_case"][0]) and None)

    json_files = [
        row
        for file in (dataset, plans, summary, split)
        for row in broken_json(file)
        if (file, row[0]) != (split, f"{split} missing")
    ]
    words = {f"{summary} missing": "unfinished", f"{summary} a folder": "unfinished", f"{split} a folder": "split.json"}
    return [
        *[(name, spoil, words.get(name, said)) for name, spoil, said in json_files],
        ("no labels", changed_json(dataset, lambda held: held.pop("labels") and None), "labels"),
        ("labels a list", with_key(dataset, "labels", ["organ"]), "labels"),
        ("a label a word", with_key(dataset, "labels", {"background": 0, "organ": "one", "lesion": 2}), "labels"),
        ("other labels", with_key(dataset, "labels", {"background": 0, "organ": 1}), "different data sets"),
        ("no file ending", changed_json(dataset, lambda held: held.pop("file_ending") and None), "file_ending"),
        ("file ending a number", with_key(dataset, "file_ending", 5), "file_ending"),
        ("no configurations", with_key(plans, "configurations", None), "configurations"),
        ("other configurations", with_key(plans, "configurations", {}), "2d"),
        ("an unknown reader", with_key(plans, "image_reader_writer", "NoIO"), "NoIO"),
        ("no cases in the summary", changed_json(summary, lambda held: {}), "metric_per_case"),
        ("no metrics of a case", per_case(lambda case: case.pop("metrics")), "metrics"),
        ("cases a text", with_key(summary, "metric_per_case", "x"), "is not nnU-Net's summary"),
        ("a file a number", per_case(lambda case: case.__setitem__("prediction_file", 5)), "is not nnU-Net's summary"),
        (
            "Dice a word",
            per_case(lambda case: case["metrics"]["1"].__setitem__("Dice", "good")),
            "is not nnU-Net's summary",
        ),
        ("other Dice", per_case(lambda case: case["metrics"]["1"].__setitem__("Dice", 0.123)), "have changed since"),
        ("a split without training", changed_json(split, lambda held: held.pop("train") and None), "lists of case ids"),
        ("a split of numbers", with_key(split, "train", 5), "train"),
        ("another split", with_key(split, "train", ["case_7"]), "do not share one split"),
        ("splits not JSON", content(b"[", splits), "not valid JSON"),
        ("splits of other cases", content(b'[{"train": ["x"], "val": ["y"]}]', splits), "do not share one split"),
        ("no validation", lambda root: shutil.rmtree((root / prediction).parent), "was not validated"),
        ("a prediction missing", gone(prediction), "case_3"),
        (
            "a prediction more",
            lambda root: shutil.copy(root / prediction, root / prediction.replace("_3", "_9")),
            "case_9",
        ),
        ("a reference missing", gone(reference), "no reference"),
        *[
            (name, spoil, "grid" if name.endswith("2D") else said)
            for name, spoil, said in (*damaged(prediction), *damaged(reference))
        ],
        ("a prediction of fractions", voxels(prediction, lambda array: array / np.float32(2)), "no labels"),
        ("a prediction of other spacing", voxels(prediction, lambda array: array), "spacing"),
        *checkpoints(f"{SECOND}/{CHECKPOINT}"),
        ("debug a list", content(b"[]", f"{FIRST}/fold_0/debug.json"), "allowed is an object"),
        ("trainer unknown", nothing, "has no results", ("-tr", A, "nnUNetTrainerNowhere")),
        ("trainer outside", nothing, "path separator", ("-tr", A, "../x")),
        ("trainer twice", nothing, "twice", ("-tr", A, A)),
        ("plans outside", nothing, "path separator", ("-p", "../x")),
        ("plans unknown", nothing, "has no results", ("-p", "x")),
        ("configuration outside", nothing, "path separator", ("-c", "../x")),
        ("data set unknown", nothing, "-d 77", ("-d", "77")),
        ("data set outside", nothing, "../x", ("-d", "../x")),
        ("fold unknown", nothing, "does not exist", ("-f", "9")),
        ("fold a word", nothing, "allowed are numbers", ("-f", "first")),
        ("fold superscript", nothing, "allowed are numbers", ("-f", "²")),
        ("fold huge", nothing, "allowed are numbers", ("-f", "9" * 5000)),
        ("fold twice", nothing, "twice", ("-f", "0", "0")),
        ("fold and all", nothing, "cannot be mixed", ("-f", "0", "all")),
        ("no processes", nothing, "allowed are numbers", ("-np", "0")),
        ("checkpoint outside", nothing, "path separator", ("-chk", "../x.pth")),
        ("output a file", content(b"x", "here"), "here", ("-o", "{root}/here")),
        ("output below a file", content(b"x", "here"), "here", ("-o", "{root}/here/x")),
    ]


COMPARE = ["compare", "-d", "992", "-c", "2d", "-f", "0", "-tr", A, B, "-np", "1"]
VALIDATED = Scene(
    write_validated,
    ".",
    {"compare": COMPARE},
    _rows(
        "compare",
        _validated_rows(),
        [
            ("hidden files", content(b"x", f"{FIRST}/fold_0/validation/._case_3.nii.gz")),
            ("a log of bytes", content(b"\x00\xff" * 99, f"{FIRST}/fold_0/training_log_2027_1_1_1_1_1.txt")),
            ("no checkpoint", gone(f"{FIRST}/{CHECKPOINT}")),
            ("debug of a number", content(b'{"num_iterations_per_epoch": 250}', f"{FIRST}/fold_0/debug.json")),
            ("other file", content(b"x", f"{FIRST}/notes.txt")),
        ],
    ),
)


def _predict_truth(self, images, outputs, **options) -> None:
    """In the place of nnU-Net's prediction, which has tests of its own."""
    for index, output in enumerate(outputs):
        study.write(study.truth(index), Path(f"{output}.nii.gz"))


def write_tested(root: Path) -> None:
    """A trainer whose test cases are predicted, and that is not compared yet."""
    of_study = Study(root)
    of_study.add_test_cases(2)
    preprocessed = of_study.preprocessed / "nnUNetPlans_2d"
    preprocessed.mkdir()
    (preprocessed / "case_0.b2nd").touch()  # nnU-Net looks at the ending only
    with mock.patch.dict("os.environ", {"nnUNet_compile": "f"}):
        trainer = nnUNetTrainer(
            of_study.plans | {"continue_training": False}, "2d", 0, of_study.dataset, torch.device("cpu")
        )
        trainer.initialize()
        folder = Path(trainer.output_folder)
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    for name, held in (("plans", of_study.plans), ("dataset", of_study.dataset)):
        (folder.parent / f"{name}.json").write_text(json.dumps(held))
    of_study.write_log(folder, 1, 7)
    with mock.patch.object(nnUNetPredictor, "predict_from_files", _predict_truth):
        assert cli.main(TEST) == 0
    shutil.rmtree(of_study.results / "compare_2d_0_test")


def _tested_rows() -> list:
    raw, record = f"nnUNet_raw/{study.DATASET}", f"{FIRST}/test_folds_0/compare_record.json"
    image, reference = f"{raw}/imagesTs/test_1_0000.nii.gz", f"{raw}/labelsTs/test_1.nii.gz"
    prediction = f"{FIRST}/test_folds_0/test_1.nii.gz"

    def words(name: str, said: str) -> str:
        return {"2D": "grid", "4D": "axes"}.get(name.split()[-1], said)

    return [
        ("no test images", lambda root: shutil.rmtree(root / raw / "imagesTs"), "no image"),
        ("no test labels", lambda root: shutil.rmtree(root / raw / "labelsTs"), "no label file"),
        ("a test image missing", gone(image), "no image"),
        *[(name, spoil, said) for name, spoil, said in damaged(image)],
        *[(name, spoil, words(name, said)) for name, spoil, said in damaged(reference)],
        *[
            (name, spoil, "have changed since: test_1.nii.gz")
            for name, spoil, _ in damaged(prediction)
            if not name.endswith("folder")
        ],
        ("a prediction gone", gone(prediction), "test_1.nii.gz"),
        ("a label of other spacing", voxels(reference, lambda array: array), "spacing"),
        ("a label of fractions", voxels(reference, lambda array: array / np.float32(2)), "no labels"),
        ("predictions of others", gone(record), "was not written by this command"),
        *[row for row in broken_json(record) if not row[0].endswith(("missing", "a folder"))],
        (
            "a note among old predictions",
            lambda root: (content(b"x", f"{FIRST}/test_folds_0/notes.txt")(root), content(b"{}", record)(root)),
            "notes.txt",
        ),
        *[(name, spoil, said) for name, spoil, said in checkpoints(f"{FIRST}/{CHECKPOINT}")],
        (
            "weights of another network",
            _checkpoint(f"{FIRST}/{CHECKPOINT}", lambda held: {**held, "network_weights": {}}),
            "cannot load the model",
        ),
        (
            "an unknown trainer",
            _checkpoint(f"{FIRST}/{CHECKPOINT}", lambda held: {**held, "trainer_name": "Nowhere"}),
            "cannot load the model",
        ),
        ("no such checkpoint", nothing, "does not exist", ("-chk", "checkpoint_best.pth")),
    ]


TEST = [*COMPARE[:8], A, "-np", "1", "--test", "-device", "cpu"]
TESTED = Scene(
    write_tested,
    ".",
    {"compare --test": TEST},
    _rows(
        "compare --test",
        _tested_rows(),
        [("no splits", gone(f"nnUNet_preprocessed/{study.DATASET}/splits_final.json"))],
    ),
)

# ---------------------------------------------------------------------------------------------------- models: export, rounds

MODEL = f"nnUNet_results/{synthetic.make_plans('Dataset991_Synthetic')['dataset_name']}/nnUNetTrainer__nnUNetPlans__2d"
MODEL_COMMANDS = {
    "export": ["export", "-d", "991", "-c", "2d", "-tr", "nnUNetTrainer", "-f", "0", "-o", "{root}/exported"],
    "pseudo_label of a model": [
        "pseudo_label",
        "-d",
        "991",
        "-c",
        "2d",
        "-f",
        "0",
        "-device",
        "cpu",
        "-np",
        "1",
        "--no_pbar",
    ],
}


def write_model(root: Path) -> None:
    """An untrained model, as a training leaves it."""
    name = synthetic.make_dataset(root, unlabeled=1, configurations=("2d",))
    trainer = make_trainer("nnUNetTrainer", root, name)
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
    for held in ("plans", "dataset"):
        source = root / "nnUNet_preprocessed" / name / ("nnUNetPlans.json" if held == "plans" else "dataset.json")
        shutil.copy(source, root / MODEL / f"{held}.json")


def _model_rows() -> list[Spoiled]:
    both, file = tuple(MODEL_COMMANDS), f"{MODEL}/{CHECKPOINT}"
    rows = [*checkpoints(file), *broken_json(f"{MODEL}/plans.json"), *broken_json(f"{MODEL}/dataset.json")]
    rows += [
        (f"checkpoint without {key}", _checkpoint(file, _without(key)), key)
        for key in ("network_weights", "trainer_name", "init_args")
    ]
    rows += [
        ("weights of another network", _checkpoint(file, lambda held: {**held, "network_weights": {}}), "load"),
        ("no checkpoint", gone(file), "checkpoint_final.pth"),
        (
            "plans without configurations",
            changed_json(f"{MODEL}/plans.json", lambda held: {**held, "configurations": {}}),
            "2d",
        ),
        ("an unknown network", _network("no.such.Network"), "no.such"),
    ]
    table = [Spoiled(f"model {row[0]}", *row[1:3], both) for row in rows]
    only: list = [
        (
            "folder of others",
            lambda root: (root / "exported").mkdir() or content(b"x", "exported/x")(root),
            "was not written by",
        ),
        ("a file in its place", content(b"x", "exported"), "exported"),
        ("below a file", content(b"x", "x"), "x", ("-o", "{root}/x/y")),
        ("into the model", nothing, "lie in each other", ("-o", "{root}/" + MODEL + "/exported")),
        ("over the model", nothing, "lie in each other", ("-o", "{root}/nnUNet_results")),
        ("fold unknown", nothing, "missing:", ("-f", "7")),
        ("fold outside", nothing, "fold_", ("-f", "../0")),
        ("checkpoint outside", nothing, "path separator", ("-chk", "../fold_0/checkpoint_final.pth")),
        ("checkpoint unknown", nothing, "missing:", ("-chk", "x.pth")),
        ("trainer unknown", nothing, "does not exist", ("-tr", "Nowhere")),
        ("trainer outside", nothing, "path separator", ("-tr", "../x")),
        ("configuration unknown", nothing, "does not exist", ("-c", "3d_fullres")),
        ("a zip of others", content(b"x", "m.zip"), "did not write it", ("--zip", "{root}/m.zip")),
        ("a zip below a file", content(b"x", "x"), "x", ("--zip", "{root}/x/m.zip")),
        (
            "a zip that is a folder",
            lambda root: (root / "m.zip").mkdir(),
            "did not write it",
            ("--zip", "{root}/m.zip"),
        ),
        ("network of ours", _network("nnunet_ssl.networks.vnet.VNet"), "belongs to nnunet_ssl"),
    ]
    small = ("without optimizer", _checkpoint(file, _without("optimizer_state")))
    table += _rows("export", only, [("other file", content(b"x", f"{MODEL}/notes.txt")), small])
    return table + _rows("pseudo_label of a model", [], [("other file", content(b"x", f"{MODEL}/notes.txt"))])


def _network(name: str) -> Spoil:
    def change(held: dict) -> None:
        held["configurations"]["2d"]["architecture"]["network_class_name"] = name

    return changed_json(f"{MODEL}/plans.json", change)


SCENES = [VALIDATED, TESTED, Scene(write_model, ".", MODEL_COMMANDS, _model_rows())]
