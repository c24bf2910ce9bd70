"""Adversarial examples of a network that is known."""

from __future__ import annotations

import torch
from torch import nn

from nnunet_ssl.losses.adversarial_examples import against_own_decision


def test_every_intensity_moves_by_the_step_towards_the_decision_boundary():
    network = nn.Conv2d(1, 2, 1, bias=False)
    network.weight.data = torch.tensor([[[[1.0]]], [[[-1.0]]]])  # class 0 where the intensity is positive
    x = torch.tensor([[[[2.0, -0.5]]]])
    moved = against_own_decision(network, x, 0.1)
    torch.testing.assert_close(moved, torch.tensor([[[[1.9, -0.4]]]]))
    assert torch.equal(x, torch.tensor([[[[2.0, -0.5]]]]))


def test_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    network = nn.Conv3d(2, 3, 3, padding=1)
    network.bias.requires_grad_(False)
    images = torch.randn(2, 2, 4, 5, 6)
    moved = against_own_decision(network, images, 0.02, "sigmoid")
    assert not moved.requires_grad and network.weight.grad is None
    assert network.weight.requires_grad and not network.bias.requires_grad
    assert torch.allclose((moved - images).abs(), torch.tensor(0.02), atol=1e-6)


def test_examples_of_a_list_of_scales_are_those_of_the_first():
    torch.manual_seed(0)
    network = nn.Conv2d(1, 3, 3, padding=1)

    class Scales(nn.Module):
        def forward(self, x):
            return [network(x), torch.zeros(1)]

    images = torch.randn(1, 1, 6, 6)
    assert torch.equal(against_own_decision(Scales(), images, 0.1), against_own_decision(network, images, 0.1))
