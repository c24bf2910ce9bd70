"""Checkpoints, plans and cases of others: what nnU-Net writes is read, and nothing in them is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ssl.data.model_files import (
    _is_network,
    check_model,
    check_same_data,
    load_predictor,
    read_checkpoint,
    read_properties,
)
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from tests.helpers.hostile import MakesFolder, spoil_checkpoint
from tests.helpers.synthetic import make_plans
from tests.helpers.training import make_trainer

SOUND = {"network_weights": {"w": torch.ones(2)}, "trainer_name": "nnUNetTrainer", "init_args": {"configuration": "2d"}}


def values(content) -> list:
    """All leaves, arrays as lists."""
    if isinstance(content, dict):
        return [leaf for key in content for leaf in [key, *values(content[key])]]
    if isinstance(content, (list, tuple)):
        return [leaf for part in content for leaf in values(part)]
    return [content.tolist() if isinstance(content, (torch.Tensor, np.ndarray)) else content]


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerMeanTeacher", "nnUNetTrainerCPS"])
def test_checkpoints_of_whole_trainings_need_no_trust(name, datasets, tmp_path):
    short = {"num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "save_every": 1}
    trainer = make_trainer(name, *datasets(), results=tmp_path)
    for attribute, value in short.items():
        setattr(trainer, attribute, value)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    for file in (folder / "checkpoint_final.pth", folder / "checkpoint_best.pth"):
        before = torch.serialization.get_safe_globals()
        assert values(read_checkpoint(file)) == values(torch.load(file, map_location="cpu", weights_only=False))
        assert set(torch.serialization.get_safe_globals()) == set(before)
    check_model(folder.parent, [0], "checkpoint_final.pth") if (folder.parent / "plans.json").is_file() else None


@pytest.mark.parametrize("names", [("numpy._core", "numpy.core"), ("numpy.core", "numpy._core")])
def test_numbers_of_every_numpy_are_read(names, tmp_path):
    numbers = {
        "text": np.str_("case"),
        "a": np.float32(1.5),
        "b": np.arange(6).reshape(2, 3),
        "c": np.bool_(True),
        "d": np.zeros((0, 2)),
    }
    file = tmp_path / "c.pth"
    torch.save({**SOUND, **numbers, "generator": np.random.default_rng(0).bit_generator.state, "set": {1, 2}}, file)
    old, new = (name.encode() for name in names)
    other = tmp_path / "other.pth"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry).replace(old, new))
    for written in (file, other):
        assert values({key: read_checkpoint(written)[key] for key in numbers}) == values(numbers)


def test_a_checkpoint_that_would_execute_code_is_refused_and_with_trust_read(tmp_path):
    file = tmp_path / "c.pth"
    torch.save(SOUND, file)
    spoil_checkpoint(file, tmp_path / "executed")
    with pytest.raises(UserError, match=r"c\.pth names os\.makedirs.*--trust"):
        read_checkpoint(file)
    assert not (tmp_path / "executed").exists()
    assert read_checkpoint(file, trust=True)["trainer_name"] == "nnUNetTrainer"
    assert (tmp_path / "executed").is_dir()


def _old_format(file: Path, folder: Path) -> None:
    torch.save({**SOUND, "more": MakesFolder(folder)}, file, _use_new_zipfile_serialization=False)


def _plain_pickle(file: Path, folder: Path) -> None:
    file.write_bytes(pickle.dumps({**SOUND, "more": MakesFolder(folder)}))


def _hidden_in_a_nested_object(file: Path, folder: Path) -> None:
    torch.save({**SOUND, "init_args": {"configuration": "2d", "plans": [{"x": (MakesFolder(folder),)}]}}, file)


def _as_the_whole_content(file: Path, folder: Path) -> None:
    torch.save(MakesFolder(folder), file)


def _torchscript(file: Path, folder: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), file)


def _another_class(file: Path, folder: Path) -> None:
    torch.save({**SOUND, "path": Path("x")}, file)


def _truncated(file: Path, folder: Path) -> None:
    torch.save(SOUND, file)
    file.write_bytes(file.read_bytes()[:-200])


def _empty(file: Path, folder: Path) -> None:
    file.touch()


def _text(file: Path, folder: Path) -> None:
    file.write_text("no checkpoint")


def _no_dictionary(file: Path, folder: Path) -> None:
    torch.save([1], file)


def _without_trainer(file: Path, folder: Path) -> None:
    torch.save({key: value for key, value in SOUND.items() if key != "trainer_name"}, file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_old_format, "--trust"),
        (_plain_pickle, "--trust"),
        (_hidden_in_a_nested_object, "names os.makedirs"),
        (_as_the_whole_content, "names os.makedirs"),
        (_torchscript, "TorchScript"),
        (_another_class, "names pathlib"),
        (_truncated, "damaged"),
        (_empty, "damaged"),
        (_text, "damaged"),
        (_no_dictionary, "holds a list"),
        (_without_trainer, "'trainer_name'"),
    ],
)
def test_what_is_no_checkpoint_of_nnunet_is_refused(spoil, words, tmp_path):
    file = tmp_path / "c.pth"
    spoil(file, tmp_path / "executed")
    with pytest.raises(UserError) as caught:
        read_checkpoint(file)
    assert str(file) in str(caught.value) and words in str(caught.value)
    assert not (tmp_path / "executed").exists()


def _model(folder: Path, architecture: dict) -> Path:
    plans = make_plans("Dataset991_Synthetic")
    plans["configurations"]["2d"]["architecture"].update(architecture)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    torch.save(SOUND, folder / "fold_0" / "checkpoint_final.pth")
    return folder


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ({"network_class_name": "torch.hub.load"}, "torch.hub.load"),
        ({"network_class_name": "torch.nn.modules.module.torch.hub.load"}, "torch.nn.modules.module.torch.hub.load"),
        ({"network_class_name": "os.system"}, "os.system"),
        ({"network_class_name": 7}, "7"),
        ({"_kw_requires_import": ["n_stages"]}, "3"),
    ],
)
def test_a_network_of_plans_that_would_execute_code_is_refused(architecture, named, tmp_path):
    model = _model(tmp_path / "model", architecture)
    with pytest.raises(UserError, match=rf"plans\.json, 2d: the network names {named},.*--trust"):
        load_predictor(model, [0], "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", True),
        ("torch.nn.modules.instancenorm.InstanceNorm3d", True),
        ("torch.nn.LeakyReLU", True),
        ("nnunet_ssl.networks.vnet.VNet", True),
        ("dynamic_network_architectures.architectures.unet.moved.PlainConvUNet", True),  # nnU-Net looks for it itself
        ("torch.nn.functional.relu", False),
        ("torch.nn.modules.module.functools.partial", False),
        ("monai.networks.nets.UNet", False),
    ],
)
def test_networks_and_layers_are_those_of_nnunet_and_ours(name, right):
    assert _is_network(name) is right


def test_a_configuration_that_the_plans_lack_is_named(tmp_path):
    model = _model(tmp_path / "model", {})
    check_model(model, [0], "checkpoint_final.pth")
    torch.save({**SOUND, "init_args": {"configuration": "5d"}}, model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(UserError, match=r'init_args\.configuration\' is "5d"; allowed is one of 2d'):
        check_model(model, [0], "checkpoint_final.pth")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_properties_of_cases_are_read_and_nothing_else(protocol, datasets, tmp_path):
    out, name = datasets()
    sound = out / "nnUNet_preprocessed" / name / "nnUNetPlans_2d" / "case_00.pkl"
    properties = pickle.loads(sound.read_bytes())
    file = tmp_path / "Dataset991_Synthetic" / "nnUNetPlans_2d" / "case.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps(properties, protocol))
    assert values(read_properties(file)) == values(properties)
    file.write_bytes(pickle.dumps({**properties, "more": MakesFolder(tmp_path / "executed")}, protocol))
    with pytest.raises(UserError, match=r"case\.pkl names os\.makedirs"):
        read_properties(file)
    assert not (tmp_path / "executed").exists()
    assert "more" in read_properties(file, trust=True) and (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"a": np.arange(9)})[:-9]])
def test_damaged_properties_are_named(content, tmp_path):
    file = tmp_path / "Dataset991_Synthetic" / "nnUNetPlans_2d" / "case.pkl"
    file.parent.mkdir(parents=True)
    with pytest.raises(UserError, match="does not exist"):
        read_properties(file)
    file.write_bytes(content)
    with pytest.raises(UserError, match="plan_and_preprocess -d 991 --clean"):
        read_properties(file)


REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": [1]}}, "labels"),
        (
            {"labels": {"background": 0, "core": [2], "whole": [1, 2]}},
            "labels",
        ),  # the outputs of the network change places
        ({"regions_class_order": [2, 1]}, "regions_class_order"),
        ({"channel_names": {"0": "T2", "1": "T1"}}, "channel_names"),
        ({"channel_names": None, "modality": {"0": "T1", "1": "T2"}}, None),
        ({"labels": {"background": 0, "whole": [2, 1], "core": 2}}, None),
    ],
)
def test_regions_and_channels_of_a_model_are_those_of_the_data_set(tmp_path, change, key):
    content = {"file_ending": ".nii.gz", "channel_names": {"0": "T1", "1": "T2"}, **REGIONS}
    of_model = {name: value for name, value in (content | change).items() if value is not None}
    (tmp_path / "dataset.json").write_text(json.dumps(of_model))
    raw = RawDataset("Dataset001_X", Path("raw"), content, {}, {}, {}, {}, {})
    with pytest.raises(UserError, match=f"'{key}' is .* but raw/dataset.json has") if key else nullcontext():
        check_same_data(tmp_path, raw)
