"""Tests of `nnunet_ssl.networks.counterpart`."""

from __future__ import annotations

import math

import pytest
import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ssl.networks.counterpart import build_counterpart, counterpart_architecture
from tests.helpers.training import make_trainer, started


def test_the_counterpart_of_both_architectures():
    plain = {"n_stages": 3, "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "nonlin_first": False}
    name, kwargs = counterpart_architecture("dynamic_network_architectures.architectures.unet.PlainConvUNet", plain)
    assert name.endswith("unet.ResidualEncoderUNet")
    assert kwargs == {"n_stages": 3, "n_blocks_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}
    name, back = counterpart_architecture(name, kwargs)
    assert name.endswith("unet.PlainConvUNet") and back["n_conv_per_stage"] == [2, 2, 2]
    with pytest.raises(NotImplementedError, match="VNet"):
        counterpart_architecture("somewhere.VNet", plain)


def test_the_counterpart_is_built(datasets, tmp_path):
    trainer = make_trainer("nnUNetTrainerMCF", *datasets(), results=tmp_path)
    trainer.initialize()
    network = build_counterpart(trainer.configuration_manager, 1, 3, False)
    assert type(network).__name__ == "ResidualEncoderUNet"
    assert network(torch.zeros(1, 1, 24, 24)).shape == (1, 3, 24, 24)


def test_its_first_weights_are_those_of_nnunet(datasets, tmp_path):
    trainer = make_trainer("nnUNetTrainerMCF", *datasets(), results=tmp_path)
    plans = trainer.configuration_manager
    name, kwargs = counterpart_architecture(plans.network_arch_class_name, plans.network_arch_init_kwargs)
    torch.manual_seed(0)
    expected = get_network_from_plans(name, kwargs, plans.network_arch_init_kwargs_req_import, 1, 3).state_dict()
    torch.manual_seed(0)
    found = build_counterpart(plans, 1, 3, None).state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def without_normalization(plans: dict) -> None:
    for name in ("2d", "3d_fullres"):
        plans["configurations"][name]["architecture"]["arch_kwargs"] |= {"norm_op": None, "norm_op_kwargs": None}


def without_scale(plans: dict) -> None:
    for name in ("2d", "3d_fullres"):
        plans["configurations"][name]["architecture"]["arch_kwargs"]["norm_op_kwargs"] = {"eps": 1e-5}


@pytest.mark.parametrize("name", ["nnUNetTrainerMCF", "nnUNetTrainerSDCL"])
@pytest.mark.parametrize("change", [without_normalization, without_scale])
def test_plans_without_normalization_or_its_scale_are_trained(change, name, datasets, tmp_path):
    trainer = started(make_trainer(name, *datasets(change_plans=change), results=tmp_path))
    values = trainer.train_step(next(trainer.dataloader_train))
    assert all(math.isfinite(value) for value in values.values())
    branches = [m.conv2.conv.weight for m in trainer.second.module.modules() if isinstance(m, BasicBlockD)]
    assert branches and all(weight.grad.abs().max() > 0 for weight in branches)
