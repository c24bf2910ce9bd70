"""Dropout by forward hooks: where, when, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from nnunet_ssl.networks.dropout import (
    ComplementaryDropout,
    HookedDropout,
    complementary_masks,
    drop_channels,
    scale_channels,
)
from tests.helpers.training import make_trainer, started


class Network(nn.Module):
    """The parts of nnU-Net's U-Nets that the dropout needs."""

    def __init__(self, convolution=nn.Conv2d):
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.stages = nn.Sequential(convolution(1, 8, 1), convolution(8, 16, 1))
        self.decoder.seg_layers = nn.ModuleList([convolution(16, 2, 1)])

    def forward(self, x):
        return self.decoder.seg_layers[-1](self.encoder.stages(x))


@pytest.mark.parametrize("spatial", [(4, 4), (3, 4, 4)])
def test_whole_channels_are_dropped_and_the_rest_scaled(spatial):
    torch.manual_seed(0)
    dropped = drop_channels(torch.ones(4, 100, *spatial), 0.5).flatten(2)
    assert (dropped == dropped[..., :1]).all()
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (dropped[..., 0] == 0).float().mean() < 0.6


@pytest.mark.parametrize("convolution, spatial", [(nn.Conv2d, (4, 4)), (nn.Conv3d, (4, 4, 4))])
def test_stochastic_within_the_context_only(convolution, spatial):
    network = Network(convolution).eval()
    image = torch.randn(2, 1, *spatial)
    keys, expected = list(network.state_dict()), network(image)
    dropout = HookedDropout(network, 0.5)
    assert list(network.state_dict()) == keys
    assert torch.equal(network(image), expected)
    assert torch.equal(network.train()(image), expected)
    with dropout.on():
        assert not torch.equal(network(image), network(image))
        assert not torch.equal(network.eval()(image), expected)
    assert torch.equal(network(image), expected)


def test_both_places_are_used():
    network = Network().eval()
    dropout = HookedDropout(network, 0.5)
    seen = []
    network.encoder.stages[-1].register_forward_hook(lambda m, i, output: seen.append(output))
    network.decoder.seg_layers[-1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    with dropout.on():
        network(torch.randn(1, 1, 4, 4))
    zero = [(s == 0).all(dim=(2, 3)) for s in seen]
    assert zero[0].any() and zero[1].sum() > zero[0].sum()


def test_in_training_follows_the_mode_of_the_network():
    network = Network()
    HookedDropout(network, 0.5, in_training=True)
    image = torch.randn(1, 1, 4, 4)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_probability_zero_hooks_nothing_and_others_are_checked():
    network = Network()
    HookedDropout(network, 0.0)
    assert not network.encoder.stages[-1]._forward_hooks
    with pytest.raises(ValueError, match="dropout probability"):
        HookedDropout(network, 1.0)
    with pytest.raises(NotImplementedError, match="Linear"):
        HookedDropout(nn.Linear(1, 1), 0.5)


def test_a_compiled_network_sees_the_switch():
    network = Network().eval()
    dropout = HookedDropout(network, 0.5)
    compiled = torch.compile(network, backend="eager")
    image = torch.randn(2, 1, 4, 4)
    with torch.no_grad():
        expected = compiled(image)
        for _ in range(2):
            with dropout.on():
                assert not torch.equal(compiled(image), compiled(image))
            assert torch.equal(compiled(image), expected)


@pytest.mark.parametrize("options", [{}, {"residual": True}], ids=str)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_nnunets_networks_have_the_places(options, configuration, datasets, tmp_path):
    out, dataset = datasets(**options)
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", out, dataset, configuration, results=tmp_path))
    network = copy.deepcopy(trainer.student.module).eval()
    keys = list(network.state_dict())
    dropout = HookedDropout(network, 0.5)
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    with dropout.on(), torch.no_grad():
        first, second = network(image), network(image)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert list(network.state_dict()) == keys


def test_complementary_masks_by_hand():
    chosen = torch.tensor([[True, False, False], [True, True, False]])
    first, second = complementary_masks(chosen, torch.tensor([False, True]))
    assert first.tolist() == [[2, 0, 0], [1, 1, 1]]
    assert second.tolist() == [[0, 2, 2], [1, 1, 1]]
    features = torch.ones(4, 3, 2, 2)
    assert scale_channels(features, first, second)[:, :, 0, 1].tolist() == [*first.tolist(), *second.tolist()]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 40, 1))

    def forward(self, x):
        first = self.stages[0](x)
        return [first, self.stages[1](first)]


def test_two_views_have_complementary_channels_within_the_context():
    torch.manual_seed(0)
    network = nn.Module()
    network.encoder = Encoder()
    dropout = ComplementaryDropout(network)
    image = torch.randn(4, 1, 3, 3)
    plain = network.encoder(image)
    with dropout.on():
        changed = network.encoder(image)
    for before, after in zip(plain, changed):
        factors = (after / before).mean((2, 3))
        first, second = factors.chunk(2)
        assert torch.allclose(first + second, torch.full_like(first, 2))
        whole = (first - 1).abs().amax(1) < 1e-4
        assert whole.sum() == 1 and (first[~whole].round() != 1).all()
    assert all(torch.equal(a, b) for a, b in zip(plain, network.encoder(image)))
    with dropout.on(False):
        assert all(torch.equal(a, b) for a, b in zip(plain, network.encoder(image)))
