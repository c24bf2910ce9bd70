"""nnU-Net's own look-up finds every trainer of ours, its variants by suffix, and a user's subclass in a folder of their own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl import cli
from nnunet_ssl.discovery import SCANNED_FOLDER
from nnunet_ssl.discovery.listing import trainer_facts
from nnunet_ssl.discovery.variants import find_trainer, near_names, trainer_classes
from nnunet_ssl.engine.configurable import ConfigurableTrainer
from nnunet_ssl.trainers import nnUNetTrainerMeanTeacher
from tests.helpers.paths import REPOSITORY
from tests.helpers.synthetic import make_dataset
from tests.helpers.training import make_trainer

USER_TRAINER = """
from nnunet_ssl.trainers import nnUNetTrainerMeanTeacher


class nnUNetTrainerMine(nnUNetTrainerMeanTeacher):
    ema_decay = 0.999
    num_epochs = 7
"""
STOCK_TRAINERS = """

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerMine_9epochs(nnUNetTrainerMine):
    ema_decay = 0.5


class nnUNetTrainerPlain(nnUNetTrainer):
    pass


class nnUNetTrainerPlain_9epochs(nnUNetTrainer):
    pass
"""


@pytest.fixture(autouse=True)
def scanned(monkeypatch):
    """Only our folder is searched, however this package was installed."""
    monkeypatch.setenv("nnUNet_extTrainer", str(SCANNED_FOLDER))


def test_the_scanned_folder_holds_one_file():
    assert [entry.name for entry in SCANNED_FOLDER.iterdir() if entry.name != "__pycache__"] == [
        "nnunet_ssl_trainers.py"
    ]


def test_every_trainer_is_found_as_the_class_that_one_imports():
    assert trainer_classes()["nnUNetTrainerMeanTeacher"] is nnUNetTrainerMeanTeacher
    for name, cls in trainer_classes().items():
        found = recursive_find_trainer_class_by_name(name)
        assert found is cls
        assert cls.__module__.startswith("nnunet_ssl.trainers.")
        assert cls.__name__ == name


@pytest.mark.parametrize(
    ("suffixes", "settings"),
    [
        ("_2epochs", {"num_epochs": 2}),
        ("_5iters", {"num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1}),
        ("_100iters", {"num_iterations_per_epoch": 100, "num_val_iterations_per_epoch": 20}),
        ("_1000iters", {"num_iterations_per_epoch": 1000, "num_val_iterations_per_epoch": 50}),
        ("_seed3", {"seed": 3}),
        ("_seed0", {"seed": 0}),
        ("_2epochs_5iters", {"num_epochs": 2, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1}),
        ("_2epochs_seed3", {"num_epochs": 2, "seed": 3}),
        ("_5iters_seed3", {"num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1, "seed": 3}),
        (
            "_100epochs_250iters_seed12",
            {"num_epochs": 100, "num_iterations_per_epoch": 250, "num_val_iterations_per_epoch": 50, "seed": 12},
        ),
    ],
)
@pytest.mark.parametrize("base", ["nnUNetTrainerMeanTeacher", "nnUNetTrainer"])
def test_suffixes_set_epochs_iterations_and_seed(base, suffixes, settings):
    name = base + suffixes
    cls = find_trainer(name)
    assert cls.__name__ == cls.__qualname__ == name
    assert cls.__bases__ == (nnUNetTrainerMeanTeacher if base.endswith("Teacher") else ConfigurableTrainer,)
    assert {k: v for k, v in vars(cls).items() if not k.startswith("__")} == settings
    assert find_trainer(name) is cls


def test_a_variant_is_found_by_nnunet_and_stable_over_look_ups():
    name = "nnUNetTrainerMeanTeacher_2epochs_5iters_seed3"
    found = recursive_find_trainer_class_by_name(name)
    assert found is recursive_find_trainer_class_by_name(name) is find_trainer(name)


def test_lengths_that_nnunet_has_itself_stay_its_own():
    assert recursive_find_trainer_class_by_name("nnUNetTrainer_5epochs") is nnUNetTrainer_5epochs
    assert issubclass(recursive_find_trainer_class_by_name("nnUNetTrainer_5epochs_seed1"), ConfigurableTrainer)


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerMeanTeacher_0epochs",
        "nnUNetTrainerMeanTeacher_05epochs",
        "nnUNetTrainerMeanTeacher_0iters",
        "nnUNetTrainerMeanTeacher_-1epochs",
        "nnUNetTrainerMeanTeacher_1.5epochs",
        "nnUNetTrainerMeanTeacher_epochs",
        "nnUNetTrainerMeanTeacher_seed",
        "nnUNetTrainerMeanTeacher_seed-1",
        "nnUNetTrainerMeanTeacher_5iters_2epochs",
        "nnUNetTrainerMeanTeacher_seed3_2epochs",
        "nnUNetTrainerMeanTeacher_2epochs_2epochs",
        "nnUNetTrainerMeanTeacher_2epochs_",
        "nnUNetTrainerMeanTeacher_2epochs\n",
        "nnUNetTrainerNobody_2epochs",
        "ConfigurableTrainer_2epochs",
        "_2epochs",
        "",
    ],
)
def test_other_names_are_unknown_and_nnunet_says_so(name):
    with pytest.raises(AttributeError, match="no trainer of nnunet_ssl"):
        find_trainer(name)
    if name:
        with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
            recursive_find_trainer_class_by_name(name)


def test_classes_survive_pickling_into_a_fresh_process(tmp_path):
    names = ["nnUNetTrainerMeanTeacher", "nnUNetTrainerMeanTeacher_2epochs_5iters_seed3", "nnUNetTrainer_seed2"]
    classes = [find_trainer(name) for name in names]
    assert pickle.loads(pickle.dumps(classes)) == classes
    (tmp_path / "classes.pkl").write_bytes(pickle.dumps(classes))
    code = (
        "import pickle, sys\n"
        "classes = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from nnunet_ssl.discovery.variants import find_trainer\n"
        "assert all(find_trainer(cls.__name__) is cls for cls in classes)\n"
        "print(*[cls.__name__ for cls in classes])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "classes.pkl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == names, done.stderr


def test_settings_of_a_variant_reach_the_trainer_and_its_results_folder(datasets, tmp_path):
    out, dataset = datasets(configurations=("2d",))
    for base in ("nnUNetTrainer", "nnUNetTrainerMeanTeacher"):
        name = f"{base}_2epochs_5iters_seed3"
        trainer = make_trainer(name, out, dataset, "2d", results=tmp_path)
        assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.seed) == (2, 5, 3)
        assert trainer.output_folder == str(tmp_path / dataset / f"{name}__nnUNetPlans__2d" / "fold_0")


def test_a_two_line_subclass_in_a_folder_of_the_users_own_takes_effect(datasets, tmp_path, monkeypatch):
    folder = tmp_path / "my_trainers"
    folder.mkdir()
    (folder / "mine.py").write_text(USER_TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(folder), str(SCANNED_FOLDER)]))
    out, dataset = datasets(configurations=("2d",))
    trainer = make_trainer("nnUNetTrainerMine", out, dataset, "2d", results=tmp_path / "results")
    assert isinstance(trainer, nnUNetTrainerMeanTeacher)
    assert (trainer.ema_decay, trainer.num_epochs) == (0.999, 7)


@pytest.fixture
def folder_of_ones_own(tmp_path, monkeypatch):
    """A folder with a trainer of this package's and one of nnU-Net's kind, which nnU-Net searches after ours."""
    folder = tmp_path / "my_trainers"
    folder.mkdir()
    (folder / "mine.py").write_text(USER_TRAINER + STOCK_TRAINERS)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(SCANNED_FOLDER), str(folder)]))
    return folder


def test_suffixes_work_for_trainers_in_a_folder_of_the_users_own(folder_of_ones_own, monkeypatch):
    name = "nnUNetTrainerMine_3epochs_5iters_seed2"
    found = recursive_find_trainer_class_by_name(name)
    assert found is recursive_find_trainer_class_by_name(name) is find_trainer(name)
    assert (found.__name__, found.__bases__[0].__name__) == (name, "nnUNetTrainerMine")
    assert (found.num_epochs, found.num_iterations_per_epoch, found.seed, found.ema_decay) == (3, 5, 2, 0.999)
    assert pickle.loads(pickle.dumps(found)) is found
    monkeypatch.setenv("nnUNet_extTrainer", str(SCANNED_FOLDER))
    with pytest.raises(AttributeError, match="no trainer of nnunet_ssl"):
        find_trainer(name)


@pytest.mark.parametrize("suffix", ["_2epoch", "_seed1_2epochs", "_2epochs_2epochs", "_0epochs", "s_2epochs"])
def test_a_wrong_suffix_of_a_users_trainer_is_nnunets_error(suffix, folder_of_ones_own):
    with pytest.raises(RuntimeError, match=f"Could not find requested nnunet trainer nnUNetTrainerMine{suffix} "):
        recursive_find_trainer_class_by_name(f"nnUNetTrainerMine{suffix}")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("nnUNetTrainerMeanTeacher_seed3_2epochs", ["nnUNetTrainerMeanTeacher_2epochs_seed3"]),
        ("nnUNetTrainer_seed3_5iters_2epochs", ["nnUNetTrainer_2epochs_5iters_seed3"]),
        ("nnUNetTrainerMine_seed1_2epochs", ["nnUNetTrainerMine_2epochs_seed1"]),
        ("nnUNetTrainerMeanTeachr_2epochs", ["nnUNetTrainerMeanTeacher_2epochs"]),
        ("nnUNetTrainerNobody", []),
        ("nnUNetTrainerMeanTeacher_2epochs_2epochs", []),
    ],
)
def test_names_that_may_have_been_meant_are_among_what_nnunet_prints(name, near, folder_of_ones_own, capsys):
    assert near_names(name) == near
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        recursive_find_trainer_class_by_name(name)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "nnunet_ssl has no" in line]
    assert lines == [f"nnunet_ssl has no {name}. It has {', '.join(near)}."] * bool(near)


def test_classes_that_users_wrote_out_are_not_hidden_by_a_suffix(folder_of_ones_own):
    written = recursive_find_trainer_class_by_name("nnUNetTrainerMine_9epochs")
    assert written.ema_decay == 0.5
    assert recursive_find_trainer_class_by_name("nnUNetTrainerPlain_9epochs").__bases__ == (nnUNetTrainer,)
    with pytest.raises(RuntimeError, match="Could not find"):  # its settings are not class attributes
        recursive_find_trainer_class_by_name("nnUNetTrainerPlain_2epochs")


def test_the_command_prints_hyperparameters_of_a_users_trainer(folder_of_ones_own, capsys):
    for name in ("nnUNetTrainerMine", "nnUNetTrainerMine_2epochs"):
        assert cli.main(["trainers", "--attributes", name]) == 0
        printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert printed["ema_decay"] == "0.999" and printed["num_epochs"] == ("2" if "_" in name else "7")


@pytest.mark.slow
def test_a_users_trainer_with_suffixes_is_trained_compared_and_exported(folder_of_ones_own, tmp_path):
    name = "nnUNetTrainerMine_1epochs_2iters_seed1"
    dataset = make_dataset(tmp_path)
    folders = {f"nnUNet_{kind}": str(tmp_path / f"nnUNet_{kind}") for kind in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **folders, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}

    def run(module: str, function: str, *words: str) -> str:
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        command = [sys.executable, "-W", "ignore", "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run("nnunetv2.run.run_training", "run_training_entry", "991", "2d", "0", "-tr", name, "-device", "cpu")
    fold = tmp_path / "nnUNet_results" / dataset / f"{name}__nnUNetPlans__2d" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
    ours = ("nnunet_ssl.cli", "main")
    assert name in run(*ours, "compare", "-d", "991", "-c", "2d", "-f", "0", "-tr", name, "-o", str(tmp_path / "table"))
    run(*ours, "export", "-d", "991", "-c", "2d", "-f", "0", "-tr", name, "-o", str(tmp_path / "model"))
    assert "nnUNetTrainerMine" not in run(*ours, "trainers")


def test_a_trainer_module_that_cannot_be_imported_is_not_passed_over(tmp_path, monkeypatch):
    import nnunet_ssl.trainers

    (tmp_path / "broken_method.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.setattr(nnunet_ssl.trainers, "__path__", [*nnunet_ssl.trainers.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        trainer_classes.__wrapped__()


def test_the_command_lists_each_trainer_under_its_kind_of_label_with_its_first_line(capsys):
    assert cli.main(["trainers"]) == 0
    kinds = capsys.readouterr().out.split("\n\n")
    assert [kind.splitlines()[0].split()[0] for kind in kinds] == ["Dense", "Scribbles,", "Classes"]
    listed = {}
    for kind, folder in zip(kinds, ("unlabeled", "sparse", "partial"), strict=True):
        lines = [line for line in kind.splitlines()[1:] if line.startswith("  nnUNetTrainer")]
        listed |= {line.split()[0]: (folder, line) for line in lines}
        recommended = kind.splitlines()[0].split()[-1].rstrip(".")
        assert listed[recommended][0] == folder
    assert sorted(listed) == list(trainer_classes())
    assert all(f".{listed[name][0]}." in cls.__module__ for name, cls in trainer_classes().items())
    assert listed["nnUNetTrainerMeanTeacher"][1].endswith(nnUNetTrainerMeanTeacher.__doc__.splitlines()[0])


def test_the_command_says_networks_passes_support_and_source(capsys):
    assert cli.main(["trainers"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "networks: student, teacher passes per step: forward and backward on labeled and unlabeled patches in one batch, one "
        "forward pass of the teacher on the unlabeled ones supports: 2D, 3D, regions, ignore label source: Tarvainen & Valpola"
    ) in text
    assert text.count(" source: ") == len(trainer_classes())


def test_every_trainer_has_a_sentence_passes_and_a_source():
    for facts in trainer_facts():
        assert facts.idea.endswith("."), facts.name  # a sentence, not cut off
        assert facts.passes and facts.citation and facts.networks[0] == "student", facts


def test_what_is_supported_comes_from_the_class(monkeypatch):
    supports = {facts.name: facts.supports for facts in trainer_facts()}
    assert supports["nnUNetTrainerPartialLabel"] == ("2D", "3D", "regions", "ignore label", "partial labels")
    assert supports["nnUNetTrainerCycleMix"] == ("2D", "3D", "ignore label")
    monkeypatch.setattr(nnUNetTrainerMeanTeacher, "unsupported", {"3d": "a reason"})
    changed = {facts.name: facts.supports for facts in trainer_facts()}
    assert changed["nnUNetTrainerMeanTeacher"] == ("2D", "regions", "ignore label")


def test_the_command_prints_hyperparameters_with_values(capsys):
    assert cli.main(["trainers", "--attributes", "nnUNetTrainerMeanTeacher_2epochs"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["num_epochs"] == "2"
    assert printed["ema_decay"] == repr(nnUNetTrainerMeanTeacher.ema_decay)
    assert printed["initial_lr"] == "nnU-Net's default"


@pytest.mark.parametrize(("name", "reason"), [("nnUNetTrainerMeanTeachr", "no trainer"), ("nnUNetTrainer", "own")])
def test_the_command_refuses_what_has_no_attributes_to_show(capsys, name, reason):
    assert cli.main(["trainers", "--attributes", name]) == 1
    message = capsys.readouterr().err
    assert reason in message
    assert "nnUNetTrainerMeanTeacher" in message


def test_the_command_prints_the_scanned_folder(capsys):
    assert cli.main(["trainers_path"]) == 0
    assert capsys.readouterr().out == f"{SCANNED_FOLDER}\n"


def test_stock_variants_train_with_stock_code_only():
    assert find_trainer("nnUNetTrainer_seed2").train_step is nnUNetTrainer.train_step
