"""One pass of the encoder, two decodings."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_ssl.networks.second_decoding import DroppedChannels, SecondDecoding


def member_of(network: nn.Module):
    """A network as the engine calls it."""

    class Member:
        module = network

        def __call__(self, images):
            output = network(images)
            return list(output) if isinstance(output, (list, tuple)) else [output]

    return Member()


def build(cls, dimension: int, deep_supervision: bool) -> nn.Module:
    torch.manual_seed(0)
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dimension == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    blocks = {"n_conv_per_stage": 1} if cls is PlainConvUNet else {"n_blocks_per_stage": 1}
    return cls(
        1, 3, [4, 8, 8], conv, 3, [1, 2, 2], num_classes=2, n_conv_per_stage_decoder=1, conv_bias=True,
        norm_op=norm, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=deep_supervision, **blocks,
    )  # fmt: skip


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("cls", [PlainConvUNet, ResidualEncoderUNet])
def test_the_second_decoding_is_that_of_the_changed_features(cls, dimension, deep_supervision):
    network = build(cls, dimension, deep_supervision)
    plain, passes = copy.deepcopy(network), []
    network.encoder.stages[0].register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    decoding = SecondDecoding(member_of(network), lambda features: [-2 * f for f in features])
    images = torch.randn(5, 1, *[16] * dimension)
    scales, second = decoding(images, first=2)
    expected = as_list(plain(images))
    expected_second = as_list(plain.decoder([-2 * f[2:] for f in plain.encoder(images)]))
    assert passes == [5]  # the encoder ran once, on the images
    assert len(scales) == len(second) == len(expected) == (2 if deep_supervision else 1)
    for found, wanted in zip([*scales, *second], [*expected, *expected_second], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert len(as_list(network(images))[0]) == 5  # a plain call is as before


def as_list(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(output)


def test_gradients_of_the_second_decoding_reach_the_encoder():
    network = build(PlainConvUNet, 2, True)
    _, second = SecondDecoding(member_of(network), DroppedChannels(0.5))(torch.randn(2, 1, 16, 16), first=1)
    second[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.encoder.stages[0].parameters())


def test_channels_are_dropped_whole_and_the_others_scaled():
    torch.manual_seed(0)
    (dropped,) = DroppedChannels(0.5)([torch.ones(4, 50, 3, 3)])
    values = dropped.flatten(2)
    assert {float(v) for v in values.unique()} == {0.0, 2.0} and (values.amin(2) == values.amax(2)).all()


def test_a_network_of_another_build_is_refused():
    with pytest.raises(NotImplementedError, match=r"encoder\.stages"):
        SecondDecoding(SimpleNamespace(module=nn.Linear(1, 1)), DroppedChannels(0.5))


def test_an_error_in_the_pass_leaves_the_network_as_it_was():
    network = build(PlainConvUNet, 2, False)
    with pytest.raises(RuntimeError):
        SecondDecoding(member_of(network), DroppedChannels(0.5))(torch.randn(2, 7, 16, 16))
    assert len(as_list(network(torch.randn(2, 1, 16, 16)))[0]) == 2
