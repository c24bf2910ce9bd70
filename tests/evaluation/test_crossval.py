"""nnU-Net's selection among trainers on sparse labels: by its own command, and on dense labels."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import run_training

from nnunet_ssl.cli import main
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.comparison import compare
from tests.helpers.environments import Environment, link_installed_packages
from tests.helpers.pages import execute, small_and_here
from tests.helpers.study import A, Study
from tests.helpers.synthetic import make_dataset
from tests.helpers.trainers import preprocess_dense_labels

SHORT = "_2epochs_20iters_seed0"
TRAINERS = [f"nnUNetTrainer{SHORT}", f"nnUNetTrainerScribbleEntropyMin{SHORT}"]
FOLDS = "0_1_2_3_4"


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """Sparse labels with dense ones beside them; two trainers on five folds, by nnU-Net's own function."""
    root = tmp_path_factory.mktemp("crossval")
    name = make_dataset(root, labeled=5, ignore=True, dense=True, configurations=("2d",))
    cases = [f"case_{i:02d}" for i in range(5)]
    splits = json.dumps([{"train": [c for c in cases if c != case], "val": [case]} for case in cases])
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (root / folder / name / "splits_final.json").write_text(splits)
    with small_and_here(root):
        preprocess_dense_labels(name)
        for trainer in TRAINERS:
            for fold in range(5):
                options = {"export_validation_probabilities": True, "device": torch.device("cpu")}
                run_training(name, "2d", fold, trainer, **options)
    return root, name


@pytest.fixture
def in_results(trained) -> Iterator[Path]:
    root, name = trained
    with small_and_here(root):
        yield root / "nnUNet_results" / name


def run(words: list[str], environment: dict[str, str], python: Path) -> None:
    """A console command of nnU-Net, as an entry point of that Python."""
    words = [str(word) for word in words]
    code = (
        "import importlib.metadata, sys; "
        "(point,) = [p for p in importlib.metadata.distribution('nnunetv2').entry_points if p.name == sys.argv[1]]; "
        "del sys.argv[0]; point.load()()"
    )
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", code, *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, shlex.join(words) + done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_nnunets_command_judges_by_sparse_labels_and_ours_by_dense_ones(in_results, tmp_path, capsys):
    models = [in_results / f"{trainer}__nnUNetPlans__2d" for trainer in TRAINERS]
    execute(["nnUNetv2_find_best_configuration", "991", "-c", "2d", "-tr", *TRAINERS, "-np", "1"], tmp_path)
    selection = [model / f"crossval_results_folds_{FOLDS}" for model in models]
    by_sparse = [summary(folder) for folder in selection]
    assert all("labelsTr/" in entry["reference_file"] for entry in by_sparse[0]["metric_per_case"])

    compared = [
        "compare",
        "-d",
        "991",
        "-c",
        "2d",
        "-f",
        *"01234",
        "-tr",
        *TRAINERS,
        "-np",
        "1",
        "-o",
        str(tmp_path / "c"),
    ]
    assert main([*compared, "--write_crossval"]) == 0
    printed = capsys.readouterr().out
    by_dense = [summary(folder) for folder in selection]
    for sparse, dense in zip(by_sparse, by_dense, strict=True):
        # 60 % of the voxels are ignored in labelsTr
        assert dense["foreground_mean"]["n_ref"] > 2 * sparse["foreground_mean"]["n_ref"]
        assert dense["foreground_mean"]["Dice"] != sparse["foreground_mean"]["Dice"]
    ours = {
        (Path(entry["prediction_file"]).name, label): values["Dice"]
        for fold in range(5)
        for entry in summary(models[1] / f"fold_{fold}" / "validation")["metric_per_case"]
        for label, values in entry["metrics"].items()
    }
    theirs = {
        (Path(entry["prediction_file"]).name, label): values["Dice"]
        for entry in by_dense[1]["metric_per_case"]
        for label, values in entry["metrics"].items()
    }
    assert ours == theirs  # our trainers validate on dense labels
    (ensemble,) = (in_results / "ensembles").iterdir()
    scores = [*(s["foreground_mean"]["Dice"] for s in by_dense), summary(ensemble)["foreground_mean"]["Dice"]]
    best = [*selection, ensemble][scores.index(max(scores))]
    assert f"*Best*: {(best if best == ensemble else best.parent).name}: {max(scores)}" in printed
    pp = json.loads((best / "postprocessing.json").read_text())
    assert pp["input_folder"]["foreground_mean"]["Dice"] == pytest.approx(max(scores))

    # the commands that nnU-Net has written, as they stand
    images = in_results.parents[1] / "nnUNet_raw" / in_results.name / "imagesTs"
    places = {"INPUT_FOLDER": images} | {
        name: tmp_path / name
        for name in ("OUTPUT_FOLDER_PP", "OUTPUT_FOLDER_MODEL_1", "OUTPUT_FOLDER_MODEL_2", "OUTPUT_FOLDER")
    }
    for line in (in_results / "inference_instructions.txt").read_text().splitlines():
        if line.startswith("nnUNetv2_"):
            words = [str(places.get(word, word)) for word in shlex.split(re.sub(r"-np \d+", "-np 1", line))]
            execute(
                words + (["-device", "cpu", "-npp", "0", "-nps", "0"] if words[0] == "nnUNetv2_predict" else []),
                tmp_path,
            )
    assert [file.name for file in (tmp_path / "OUTPUT_FOLDER_PP").glob("*.nii.gz")] == ["test_00.nii.gz"]


@pytest.mark.slow
def test_a_model_travels_as_a_zip_to_where_this_package_is_not_installed(in_results, trained, tmp_path):
    root, name = trained
    folds = [*"01234"]
    assert (
        main(["export", "-d", "991", "-c", "2d", "-tr", TRAINERS[1], "-f", *folds, "--zip", str(tmp_path / "m.zip")])
        == 0
    )
    images, there = root / "nnUNet_raw" / name / "imagesTs", tmp_path / "there"
    there.mkdir()
    environment = Environment(there, link_installed_packages(tmp_path / "packages"))
    variables = environment.variables(nnUNet_results=str(there / "results"), nnUNet_raw="", nnUNet_preprocessed="")
    assert "ModuleNotFoundError" in environment.execute(
        "try: import nnunet_ssl\nexcept Exception as e: print(type(e).__name__)"
    )
    run(["nnUNetv2_install_pretrained_model_from_zip", tmp_path / "m.zip"], variables, environment.python)
    predict = ["nnUNetv2_predict", "-i", images, "-d", "991", "-c", "2d", "-tr", TRAINERS[1], "-f", *folds]
    predict += ["-device", "cpu", "-npp", "0", "-nps", "0"]
    run([*predict, "-o", tmp_path / "theirs"], variables, environment.python)
    execute([str(word) for word in (*predict, "-o", tmp_path / "here")], tmp_path)
    assert (tmp_path / "theirs" / "test_00.nii.gz").read_bytes() == (tmp_path / "here" / "test_00.nii.gz").read_bytes()


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    return Study.in_environment(tmp_path, monkeypatch)


def refused(study: Study, **options) -> str:
    with pytest.raises(UserError) as error:
        compare(study.raw.name, "2d", options.pop("folds", ["0"]), [A], write_crossval=True, num_processes=1, **options)
    return str(error.value)


def test_what_cannot_be_chosen_on_dense_labels_is_refused(study):
    study.add_run(A, error=1)
    assert "nnUNetv2_find_best_configuration judges by them" in refused(study)
    assert "Leave --test out" in refused(study, test=True)
