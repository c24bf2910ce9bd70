"""Gradients pass a network without reaching its parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.gradients import fixed


def test_gradients_reach_the_input_and_no_parameter():
    network = nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    with fixed(network.parameters()):
        network(x).sum().backward()
    assert torch.allclose(x.grad, network.weight.detach().sum(0).expand(4, 3))
    assert network.weight.grad is None and network.bias.grad is None


def test_parameters_are_as_before_also_after_an_error():
    network = nn.Linear(3, 2)
    network.bias.requires_grad_(False)
    with pytest.raises(KeyError), fixed(network.parameters()):
        assert not network.weight.requires_grad
        raise KeyError
    assert network.weight.requires_grad and not network.bias.requires_grad
