"""Tests of `nnunet_ssl.networks.counterpart`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.networks.counterpart import build_counterpart, counterpart_architecture
from tests.helpers.training import make_trainer


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
