"""An exported model is loaded by stock nnU-Net, without this package, and gives the same output."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl import cli
from nnunet_ssl.data.ownership import RECORD
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.export import PROVENANCE_FILE, export_model, stock_checkpoint
from tests.helpers.hostile import spoil_checkpoint
from tests.helpers.synthetic import LABELS, make_plans

DATASET = "Dataset991_Synthetic"
TRAINER = "nnUNetTrainerMeanTeacher_2epochs"
MODEL = f"{TRAINER}__nnUNetPlans__2d"

# Predicts with an exported model where importing nnunet_ssl fails; arguments: model folder, input, output, folds
STOCK = """
import sys
sys.modules["nnunet_ssl"] = None
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], sys.argv[4].split(","), "checkpoint_final.pth")
outputs = []
for parameters in predictor.list_of_parameters:
    predictor.network.load_state_dict(parameters)
    outputs.append(predictor.network.eval()(torch.load(sys.argv[2])).detach())
torch.save([outputs, predictor.trainer_name, predictor.allowed_mirroring_axes], sys.argv[3])
"""


def network() -> torch.nn.Module:
    configuration = PlansManager(make_plans(DATASET)).get_configuration("2d")
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        len(LABELS),
        deep_supervision=False,
    ).eval()


def write_fold(model: Path, fold: str, seed: int, name: str = "checkpoint_final.pth") -> torch.nn.Module:
    """A checkpoint as our engine writes it, after a step of an optimizer that a head of the method shares."""
    torch.manual_seed(seed)
    net, head = network(), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.99)
    optimizer.add_param_group({"params": list(head.parameters())})
    loss = net(torch.randn(2, 1, 24, 24)).square().mean() + head(torch.ones(1, 2)).sum()
    loss.backward()
    optimizer.step()
    checkpoint = {
        "network_weights": net.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [0.5]},
        "_best_ema": 0.5,
        "current_epoch": 2,
        "init_args": {
            "plans": make_plans(DATASET),
            "configuration": "2d",
            "fold": fold,
            "dataset_json": {},
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": (0, 1),
        "ssl_state": {"student": net.state_dict()},
    }
    folder = model / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / name)
    return net


def write_model(results: Path, folds=("0",), plans: dict | None = None) -> Path:
    model = results / DATASET / MODEL
    for seed, fold in enumerate(folds):
        write_fold(model, fold, seed)
    dataset_json = {"channel_names": {"0": "MR"}, "labels": LABELS, "numTraining": 4, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    (model / "plans.json").write_text(json.dumps(plans or make_plans(DATASET)))
    (model / "dataset_fingerprint.json").write_text("{}")
    return model


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_results"


def export(*arguments) -> int:
    return cli.main(["export", "-d", "991", "-c", "2d", "-tr", TRAINER, *map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != RECORD}


def test_stock_nnunet_predicts_the_same_without_this_package(results, tmp_path, capsys):
    model = write_model(results, folds=("0", "2", "all"))
    before = contents(model)
    out = tmp_path / "exported"
    assert export("-f", "0", "all", "-o", out) == 0
    assert f"-m {out} -f 0 all" in capsys.readouterr().out
    assert contents(model) == before
    assert set(contents(out)) == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        PROVENANCE_FILE,
        "fold_0/checkpoint_final.pth",
        "fold_all/checkpoint_final.pth",
    }
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []

    image = torch.randn(1, 1, 24, 24)
    torch.save(image, tmp_path / "image.pt")
    command = [sys.executable, "-W", "ignore", "-c", STOCK, out, tmp_path / "image.pt", tmp_path / "output.pt", "0,all"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs, trainer, axes = torch.load(tmp_path / "output.pt")
    assert (trainer, axes) == ("nnUNetTrainer", (0, 1))
    for fold, output in zip(("0", "all"), outputs, strict=True):
        net = network()
        net.load_state_dict(
            torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)["network_weights"]
        )
        assert torch.allclose(output, net(image), rtol=0, atol=1e-6)


def write_what_nnunet_keeps(model: Path, folds: list[str]) -> None:
    """Beside the checkpoints, and of a selection among models."""
    summary = {
        "metric_per_case": [{"prediction_file": "/here/p/case_1.nii.gz", "reference_file": "/here/r/case_1.nii.gz"}]
    }
    for fold in folds:
        (model / f"fold_{fold}" / "progress.png").write_bytes(b"png")
        (model / f"fold_{fold}" / "validation").mkdir()
        (model / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps(summary))
        (model / f"fold_{fold}" / "validation" / "case_1.nii.gz").touch()
    selection = model / f"crossval_results_folds_{'_'.join(folds)}"
    selection.mkdir()
    (selection / "summary.json").write_text(json.dumps(summary))
    for name in ("postprocessing.pkl", "postprocessing.json", "case_1.nii.gz"):
        (selection / name).touch()


def test_nnunets_own_zip_can_be_made_of_an_exported_folder(results, tmp_path, monkeypatch):
    model = write_model(results, folds=("0", "1"))
    write_what_nnunet_keeps(model, ["0", "1"])
    shared = tmp_path / "shared"
    out = shared / DATASET / MODEL
    assert export("-f", "0", "1", "-o", out) == 0
    monkeypatch.setenv("nnUNet_results", str(shared))
    export_pretrained_model(DATASET, str(tmp_path / "model.zip"), ("2d",), TRAINER, folds=("0", "1"))
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = {name.removeprefix(f"{DATASET}/{MODEL}/") for name in archive.namelist()}
    selection = {
        f"crossval_results_folds_0_1/{name}" for name in ("summary.json", "postprocessing.pkl", "postprocessing.json")
    }
    of_fold = {"checkpoint_final.pth", "progress.png", "validation/summary.json"}
    of_folds = {f"fold_{fold}/{name}" for fold in (0, 1) for name in of_fold}
    assert names == {"plans.json", "dataset.json", "dataset_fingerprint.json", *selection, *of_folds}
    (entry,) = json.loads((out / "fold_0" / "validation" / "summary.json").read_text())["metric_per_case"]
    assert entry == {"prediction_file": "case_1.nii.gz", "reference_file": "case_1.nii.gz"}


def test_the_zip_holds_the_exported_folder_where_nnunet_looks_for_it(results, tmp_path, capsys):
    model = write_model(results)
    write_what_nnunet_keeps(model, ["0"])
    assert export("-o", tmp_path / "exported", "--zip", tmp_path / "below" / "model.zip") == 0
    printed = capsys.readouterr().out
    assert f"-d {DATASET} -c 2d -tr {TRAINER} -p nnUNetPlans -f 0" in printed and "-m " in printed
    installed = tmp_path / "elsewhere"
    with zipfile.ZipFile(tmp_path / "below" / "model.zip") as archive:
        archive.extractall(installed)
    assert contents(installed / DATASET / MODEL) == contents(tmp_path / "exported")

    write_fold(model, "0", 9)
    before = (tmp_path / "below" / "model.zip").read_bytes()
    assert export("--zip", tmp_path / "below" / "model.zip") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "below" / "model.zip").read_bytes() == before
    # of a process of this host that was killed
    (tmp_path / "below" / f".model.zip.converting-{socket.gethostname()}-{2**31 - 1}").mkdir()
    assert export("--zip", tmp_path / "below" / "model.zip", "--overwrite") == 0
    assert (tmp_path / "below" / "model.zip").read_bytes() != before
    assert sorted(f.name for f in (tmp_path / "below").iterdir()) == ["model.zip"]
    (tmp_path / "notes.txt").write_text("mine")
    assert export("--zip", tmp_path / "notes.txt", "--overwrite") == 1
    assert "did not write it" in capsys.readouterr().err and (tmp_path / "notes.txt").read_text() == "mine"
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "mine")
    assert export("--zip", tmp_path / "photos.zip", "--overwrite") == 1
    assert "did not write it" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        assert archive.namelist() == ["photo.txt"]
    assert export() == 1
    assert "-o" in capsys.readouterr().err


@pytest.mark.parametrize("plans", ["my__plans", "a__b__c"])
def test_a_name_that_nnunet_would_not_find_in_a_zip_is_refused_at_once(results, tmp_path, capsys, plans):
    write_model(results).rename(results / DATASET / f"{TRAINER}__{plans}__2d")
    assert export("-p", plans, "--zip", tmp_path / "model.zip", "-o", tmp_path / "exported") == 1
    assert "whose name has no '__'" in capsys.readouterr().err
    assert not (tmp_path / "model.zip").exists() and not (tmp_path / "exported").exists()
    assert export("-p", plans, "-o", tmp_path / "exported") == 0


def test_the_checkpoint_keeps_what_stock_nnunet_reads(results):
    model = write_model(results)
    loaded = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    exported = stock_checkpoint(loaded)
    assert set(exported) == set(loaded) - {"ssl_state"}
    assert exported["trainer_name"] == "nnUNetTrainer"
    assert loaded["trainer_name"] == TRAINER
    assert "ssl_state" in loaded
    assert all(exported[k] is loaded[k] for k in exported if k not in ("trainer_name", "optimizer_state"))

    net = network()
    stock = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.99)
    with pytest.raises(ValueError, match="parameter groups"):
        stock.load_state_dict(loaded["optimizer_state"])
    stock.load_state_dict(exported["optimizer_state"])
    of_head = set(loaded["optimizer_state"]["param_groups"][1]["params"])
    assert len(of_head) == 2
    assert set(exported["optimizer_state"]["state"]) == set(loaded["optimizer_state"]["state"]) - of_head


def test_all_folds_are_taken_when_none_is_named(results, tmp_path):
    write_model(results, folds=("0", "3"))
    assert export("-o", tmp_path / "exported") == 0
    provenance = json.loads((tmp_path / "exported" / PROVENANCE_FILE).read_text())
    assert provenance == {
        "trainer_name": {"0": TRAINER, "3": TRAINER},
        "checkpoint": "checkpoint_final.pth",
        "model": MODEL,
    }


def test_another_checkpoint_keeps_its_name(results, tmp_path):
    model = write_model(results)
    write_fold(model, "0", 5, "checkpoint_best.pth")
    assert export("-chk", "checkpoint_best.pth", "-o", tmp_path / "exported") == 0
    assert (tmp_path / "exported" / "fold_0" / "checkpoint_best.pth").is_file()
    assert not (tmp_path / "exported" / "fold_0" / "checkpoint_final.pth").exists()


def test_a_network_of_this_package_is_refused(results, tmp_path):
    plans = make_plans(DATASET)
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "nnunet_ssl.networks.vnet.VNet"
    model = write_model(results, plans=plans)
    with pytest.raises(UserError, match=r"nnunet_ssl\.networks\.vnet\.VNet.*cannot build it"):
        export_model(model, tmp_path / "exported", "2d")
    assert not (tmp_path / "exported").exists()


def test_what_would_execute_code_is_not_read_without_trust(results, tmp_path, capsys):
    model = write_model(results)
    spoil_checkpoint(model / "fold_0" / "checkpoint_final.pth", tmp_path / "executed")
    assert export("-o", tmp_path / "below" / "exported") == 1
    said = capsys.readouterr().err
    assert "checkpoint_final.pth names os.makedirs" in said and "--trust" in said
    assert not (tmp_path / "executed").exists() and not (tmp_path / "below").exists()
    assert export("-o", tmp_path / "below" / "exported", "--trust") == 0
    assert (tmp_path / "executed").is_dir()


def test_a_checkpoint_without_optimizer_is_exported(results, tmp_path):
    model = write_model(results)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    del content["optimizer_state"], content["logging"]
    torch.save(content, file)
    assert export("-o", tmp_path / "exported") == 0
    exported = torch.load(tmp_path / "exported" / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert exported.keys() == content.keys() - {"ssl_state"}


def test_weights_of_another_network_than_the_plans_name_are_refused_and_nothing_is_left(results, tmp_path):
    plans = make_plans(DATASET)
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 12, 20]
    model = write_model(results, plans=plans)
    target = tmp_path / "below"
    target.mkdir()
    with pytest.raises(UserError, match="another network than the plans name"):
        export_model(model, target / "exported", "2d")
    assert list(target.iterdir()) == []


def test_an_earlier_export_is_replaced_only_with_overwrite(results, tmp_path, capsys):
    model, out = write_model(results), tmp_path / "exported"
    assert export("-o", out) == 0
    before = contents(out)
    write_fold(model, "0", 7)
    write_fold(model, "1", 8)
    assert export("-o", out) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert contents(out) == before
    (out / "notes.txt").write_text("mine")
    assert export("-o", out, "--overwrite") == 1
    assert "notes.txt" in capsys.readouterr().err and (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert export("-o", out, "--overwrite") == 0
    assert contents(out)["fold_0/checkpoint_final.pth"] != before["fold_0/checkpoint_final.pth"]
    assert (out / "fold_1").is_dir()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_what_was_not_exported_is_never_replaced(results, tmp_path):
    model = write_model(results)
    baseline = results / DATASET / "nnUNetTrainer__nnUNetPlans__2d"
    baseline.mkdir()
    (baseline / "plans.json").write_text("{}")
    with pytest.raises(UserError, match="not written by `nnunet_ssl export`"):
        export_model(model, baseline, "2d", overwrite=True)
    for out in (model, model.parent, model / "exported"):
        with pytest.raises(UserError, match="lie in each other"):
            export_model(model, out, "2d", overwrite=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export_model(model, empty, "2d") == ["0"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-f", "0", "4"], ["fold_4/checkpoint_final.pth", "fold_0/checkpoint_final.pth", "-f"]),
        (["-chk", "checkpoint_best.pth"], ["fold_X/checkpoint_best.pth", "-chk"]),
        (["-tr", "nnUNetTrainer"], ["nnUNetTrainer__nnUNetPlans__2d does not exist", MODEL, "nnUNetv2_train"]),
        (["-d", "500"], ["500"]),
    ],
)
def test_what_is_missing_is_named_with_what_is_there(results, tmp_path, capsys, arguments, parts):
    write_model(results)
    assert export("-o", tmp_path / "exported", *arguments) == 1
    message = capsys.readouterr().err
    for part in parts:
        assert part in message
    assert not (tmp_path / "exported").exists()


def test_missing_plans_and_an_unset_results_folder_are_named(results, tmp_path, monkeypatch, capsys):
    model = write_model(results)
    (model / "plans.json").unlink()
    with pytest.raises(UserError, match=r"plans\.json does not exist"):
        export_model(model, tmp_path / "exported", "2d")
    monkeypatch.delenv("nnUNet_results")
    assert cli.main(["export", "-d", DATASET, "-c", "2d", "-tr", TRAINER, "-o", str(tmp_path / "exported")]) == 1
    assert "the environment variable nnUNet_results is not set" in capsys.readouterr().err
