"""The small configuration keeps the preprocessed data of its base and gives a network that nnU-Net builds."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.errors import UserError
from nnunet_ssl.plans import small


def _configuration(spacing: list[float], patch: list[int], residual: bool = False) -> dict:
    dimension, stages = len(patch), 5
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [32, 64, 128, 256, 320],
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "kernel_sizes": [[3] * dimension] * stages,
        "strides": [[1] * dimension] + [[2] * dimension] * (stages - 1),
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 3, 4, 6, 6] if residual else [2] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1) if residual else [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "data_identifier": f"nnUNetPlans_{dimension}d",
        "batch_size": 12,
        "patch_size": patch,
        "spacing": spacing,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


@pytest.fixture
def plans_file(tmp_path):
    configurations = {
        "2d": _configuration([0.625, 0.625], [256, 256]),
        "3d_fullres": _configuration([0.625, 0.625, 0.625], [80, 192, 160]),
        "3d_thick": _configuration([5.0, 0.7, 0.7], [12, 256, 256]),
        "3d_residual": _configuration([1.0, 1.0, 1.0], [96, 96, 96], residual=True),
        "3d_lowres": {**_configuration([1.0, 1.0, 1.0], [64, 64, 64]), "next_stage": "3d_cascade_fullres"},
    }
    file = tmp_path / "nnUNetPlans.json"
    names = {"dataset_name": "Dataset101_LA", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO"}
    file.write_text(json.dumps({**names, "configurations": configurations}))
    return file


@pytest.mark.parametrize(
    "base, patch, features, strides",
    [
        ("2d", [64, 64], [8, 16, 32, 32], [[1, 1], [2, 2], [2, 2], [2, 2]]),
        ("3d_fullres", [16, 32, 32], [4, 8, 16], [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        # slices are 7 times thicker than pixels, so the first steps do not pool along z
        ("3d_thick", [8, 32, 32], [4, 8, 16], [[1, 1, 1], [1, 2, 2], [1, 2, 2]]),
        ("3d_residual", [32, 32, 32], [4, 8, 16], [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
    ],
)
def test_nnunet_builds_the_small_network_and_it_segments_the_small_patch(base, patch, features, strides, plans_file):
    before = json.loads(plans_file.read_text())
    name = small.add_small_configuration(plans_file, base, patch, 3, features)
    after = json.loads(plans_file.read_text())
    assert name == f"{base}_small"
    assert {**after, "configurations": {k: v for k, v in after["configurations"].items() if k != name}} == before

    manager = PlansManager(after)
    configuration, planned = manager.get_configuration(name), manager.get_configuration(base)
    assert (configuration.batch_size, configuration.patch_size) == (3, patch)
    assert configuration.data_identifier == planned.data_identifier
    assert configuration.spacing == planned.spacing
    assert configuration.pool_op_kernel_sizes == strides
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=True,
    )
    outputs = network(torch.zeros(1, 1, *patch))
    assert outputs[0].shape == (1, 2, *patch)
    assert len(outputs) == len(features) - 1
    largest = _parameters(planned)
    assert _parameters(configuration) < largest / 10


def _parameters(configuration) -> int:
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=True,
    )
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_patch_that_does_not_divide_is_rounded_up(plans_file):
    name = small.add_small_configuration(plans_file, "2d", [50, 66], 2, [4, 8, 16])
    assert json.loads(plans_file.read_text())["configurations"][name]["patch_size"] == [52, 68]


def test_the_same_request_changes_nothing_and_another_needs_overwrite(plans_file):
    small.add_small_configuration(plans_file, "2d", [64, 64], 4, [8, 16, 32])
    content = plans_file.read_bytes()
    small.add_small_configuration(plans_file, "2d", (64, 64), 4, (8, 16, 32))
    assert plans_file.read_bytes() == content
    with pytest.raises(UserError, match="already has another configuration '2d_small'"):
        small.add_small_configuration(plans_file, "2d", [64, 64], 8, [8, 16, 32])
    assert plans_file.read_bytes() == content
    assert small.add_small_configuration(plans_file, "2d", [64, 64], 8, [8, 16, 32], name="other") == "other"
    small.add_small_configuration(plans_file, "2d", [64, 64], 8, [8, 16, 32], overwrite=True)
    assert json.loads(plans_file.read_text())["configurations"]["2d_small"]["batch_size"] == 8
    assert [file.name for file in plans_file.parent.iterdir()] == [plans_file.name]


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"base": "3d_other"}, r"no configuration '3d_other'.*Allowed: 2d, 3d_fullres"),
        ({"base": "3d_lowres", "patch_size": [32, 32, 32]}, "belongs to a cascade"),
        ({"patch_size": [32, 32, 32]}, r"3 axes, '2d' .* has 2"),
        ({"features": [8, 16]}, r"2 stages .*allowed are 3 to 5"),
        ({"features": [8] * 9}, r"9 stages .*allowed are 3 to 5"),
    ],
)
def test_requests_that_do_not_fit_are_refused(request_, message, plans_file):
    arguments = {"base": "2d", "patch_size": [64, 64], "batch_size": 2, "features": [8, 16, 32], **request_}
    content = plans_file.read_bytes()
    with pytest.raises(UserError, match=message):
        small.add_small_configuration(plans_file, **arguments)
    assert plans_file.read_bytes() == content


def test_the_command_line_finds_the_plans_of_a_data_set(plans_file, monkeypatch, capsys):
    folder = plans_file.parent / "preprocessed" / "Dataset101_LA"
    folder.mkdir(parents=True)
    target = folder / "nnUNetPlans.json"
    target.write_bytes(plans_file.read_bytes())
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    words = ["-d", "101", "-b", "2d", "--patch_size", "64", "64", "--batch_size", "4", "--features", "8", "16", "32"]
    assert small.main(words) == 0
    assert "2d_small" in capsys.readouterr().out
    assert "2d_small" in json.loads(target.read_text())["configurations"]
    assert small.main([*words, "-p", "Missing"]) == 1
    assert "Missing.json" in capsys.readouterr().err


def test_the_base_stays_and_block_numbers_are_those_of_its_first_stages(plans_file):
    base = copy.deepcopy(json.loads(plans_file.read_text())["configurations"]["3d_residual"])
    name = small.add_small_configuration(plans_file, "3d_residual", [32, 32, 32], 2, [4, 8, 16])
    configurations = json.loads(plans_file.read_text())["configurations"]
    assert configurations["3d_residual"] == base
    kwargs = configurations[name]["architecture"]["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4]
    assert kwargs["n_conv_per_stage_decoder"] == [1, 1]
