"""What docs/nnunet_tools.md says was run: each row of its table is a test here, or in a file that is named here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint, run_training
from nnunetv2.training.logging import nnunet_logger

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import split_hash
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.members import NetworkMember
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_data import use_folders, write_raw_dataset, write_split
from tests.helpers.synthetic import make_dataset
from tests.helpers.trainers import needs, next_batches, run_steps
from tests.helpers.training import make_trainer, seed_everything

CROSSVAL = "tests/evaluation/test_crossval.py"
ROWS = {
    "-pretrained_weights checkpoint_final.pth of nnUNetTrainer": "test_weights_of_nnunet_go_into_every_trainer",
    "--c on a finished run": "test_a_finished_run_is_validated_again",
    "fold all": "test_a_kind_of_training_ends_with_its_validation",
    "3d_lowres": "test_a_kind_of_training_ends_with_its_validation",
    "nnUNetPlannerResEncM": "test_residual_encoder_plans",
    "regions": "test_a_kind_of_training_ends_with_its_validation",
    "--val_best": "test_the_best_checkpoint_is_validated",
    "--disable_checkpointing": "test_without_checkpoints",
    "--npz, nnUNetv2_find_best_configuration, nnUNetv2_ensemble, nnUNetv2_apply_postprocessing": (
        f"{CROSSVAL}::test_nnunets_command_judges_by_sparse_labels_and_ours_by_dense_ones"
    ),
    "nnUNetv2_install_pretrained_model_from_zip, nnUNetv2_predict": (
        f"{CROSSVAL}::test_a_model_travels_as_a_zip_to_where_this_package_is_not_installed"
    ),
    "nnUNet_wandb_enabled=1, nnUNet_wandb_mode=offline": "test_weights_and_biases_get_terms_and_hyperparameters",
}
"""First cell of a row, without backticks -> the test that runs it."""

TRAINER = "nnUNetTrainerSemiSupervised_1epochs_2iters"


def test_every_row_of_the_page_is_run():
    page = (REPOSITORY / "docs" / "nnunet_tools.md").read_text(encoding="utf-8")
    table = page.split("## What was run")[1]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]
    assert [cell.replace("`", "") for cell in cells] == list(ROWS)
    for test in ROWS.values():
        file, _, name = test.rpartition("::")
        assert f"def {name}(" in (REPOSITORY / file if file else Path(__file__)).read_text(encoding="utf-8"), test


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    use_folders(monkeypatch, tmp_path)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_compile", "f")
    return tmp_path


def train(name: str, configuration: str = "2d", fold: int | str = 0, trainer: str = TRAINER, **options) -> Path:
    """nnU-Net's own function behind nnUNetv2_train; the folder of the fold."""
    run_training(name, configuration, fold, trainer, device=torch.device("cpu"), **options)
    plans = options.get("plans_identifier", "nnUNetPlans")
    (folder,) = Path(nnunet_results()).glob(f"{name}/{trainer}__{plans}__{configuration}/fold_{fold}")
    return folder


def nnunet_results() -> str:
    import nnunetv2.paths

    return str(nnunetv2.paths.nnUNet_results)


@pytest.mark.slow
@pytest.mark.parametrize("name", trainer_classes())
def test_weights_of_nnunet_go_into_every_trainer(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "stock")
    seed_everything(5)
    stock.initialize()
    file = tmp_path / "checkpoint_final.pth"
    stock.save_checkpoint(str(file))
    trainer = make_trainer(name, out, dataset, results=tmp_path)
    maybe_load_checkpoint(trainer, False, False, str(file))
    trainer.on_train_start()
    given = {k: v for k, v in stock.network.state_dict().items() if ".seg_layers." not in k}
    followers = [m for m in trainer.members if isinstance(m, NetworkMember) and m.follows_pretrained]
    followers += [teacher for teacher in trainer.members.teachers if teacher.source is trainer.student]
    for network in [trainer.student, *followers]:
        own = network.module.state_dict()
        assert all(torch.equal(own[key], value) for key, value in given.items() if key in own), network.name
    trainer.on_train_epoch_start()
    (values,) = run_steps(trainer, next_batches(trainer))
    assert torch.isfinite(torch.tensor(float(values["loss"])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fold all", "3d_lowres", "regions"])
def test_a_kind_of_training_ends_with_its_validation(kind, folders, pools_of_threads):
    configuration = "3d_lowres" if kind == "3d_lowres" else "2d"
    name = make_dataset(folders, regions=kind == "regions", configurations=(configuration,))
    folder = train(name, configuration, "all" if kind == "fold all" else 0)
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == (4 if kind == "fold all" else 1)
    assert set(summary["mean"]) == ({"(1, 2)", "2"} if kind == "regions" else {"1", "2"}), summary["mean"].keys()


@pytest.mark.slow
def test_residual_encoder_plans(folders, pools_of_threads, monkeypatch):
    raw = folders / "nnUNet_raw" / "Dataset993_Balls"
    write_raw_dataset(raw, {"a": 1, "b": 2}, {"c": 3}, {})
    write_split(raw, (["a"], ["b"]))
    words = ["plan_and_preprocess", "-d", "993", "-c", "2d", "-pl", "nnUNetPlannerResEncM", "-np", "1", "-npfp", "1"]
    with monkeypatch.context() as planning:
        planning.setenv("nnUNet_n_proc_DA", "1")
        assert main(words) == 0
    folder = train(raw.name, plans_identifier="nnUNetResEncUNetMPlans")
    weights = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    architecture = weights["init_args"]["plans"]["configurations"]["2d"]["architecture"]
    assert architecture["network_class_name"].endswith("ResidualEncoderUNet")


@pytest.mark.slow
def test_a_finished_run_is_validated_again(folders, pools_of_threads):
    name = make_dataset(folders, configurations=("2d",))
    folder = train(name)
    before = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    (folder / "validation" / "summary.json").unlink()
    train(name, continue_training=True)
    after = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert after["ssl_state"]["iteration"] == before["ssl_state"]["iteration"] == 2
    weights = before["network_weights"]
    assert all(torch.equal(value, weights[key]) for key, value in after["network_weights"].items())
    assert (folder / "validation" / "summary.json").is_file()


@pytest.mark.slow
def test_the_best_checkpoint_is_validated(folders, pools_of_threads):
    name = make_dataset(folders, configurations=("2d",))
    folder = train(name)
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    final = (folder / "checkpoint_final.pth").read_bytes()
    for value in best["network_weights"].values():
        value.zero_()  # in place, since the teacher in `ssl_state` is the same tensor; predicts background alone
    torch.save(best, folder / "checkpoint_best.pth")
    train(name, only_run_validation=True, val_with_best=True)
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["n_pred"] == 0
    assert (folder / "checkpoint_final.pth").read_bytes() == final


@pytest.mark.slow
def test_without_checkpoints(folders, pools_of_threads):
    name = make_dataset(folders, configurations=("2d",))
    folder = train(name, disable_checkpointing=True)
    assert list(folder.glob("*.pth")) == [] and (folder / "validation" / "summary.json").is_file()


class Run:
    """What a run of Weights & Biases is given; its step counts as theirs does."""

    def __init__(self):
        self.step, self.logged, self.summary, self.settings = 0, [], {}, {}
        self.config = SimpleNamespace(update=self.settings.update)

    def log(self, values: dict, step: int) -> None:
        assert step >= self.step  # theirs drops what is logged for an earlier step
        self.step = step
        self.logged.append((step, values))


@pytest.mark.slow
def test_weights_and_biases_get_terms_and_hyperparameters(folders, monkeypatch, pools_of_threads):
    made = []

    def init(**options) -> Run:
        made.append((options, Run()))
        return made[-1][1]

    monkeypatch.setattr(nnunet_logger, "wandb", SimpleNamespace(init=init))
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")
    name = make_dataset(folders, configurations=("2d",))
    train(name)
    ((options, run),) = made
    assert options["mode"] == "offline"
    logged = {key for _, values in run.logged for key in values}
    assert {"train_losses", "nnunet_ssl/term/labeled", "nnunet_ssl/term/pseudo", "nnunet_ssl/weight/pseudo"} <= logged
    ours = run.settings["nnunet_ssl"]
    assert ours["hyperparameters"]["unlabeled_weight"] == trainer_classes()[TRAINER.split("_")[0]].unlabeled_weight
    split = {"train": ["case_00", "case_01", "case_02"], "val": ["case_03"]}
    assert ours["split"] == {"hash": split_hash(split)[:12], "train": 3, "val": 1, "unlabeled": 3}
    assert json.dumps(ours["hyperparameters"]) and ours["fold"] == 0
