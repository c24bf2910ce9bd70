"""The discriminator of images and their maps: any patch size, both inputs, the official pooling."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.networks.map_discriminator import MapDiscriminator


@pytest.mark.parametrize("size", [(40, 56), (192, 224), (16, 24, 20), (3, 32, 32), (7, 5)])
def test_any_patch_gives_two_logits_per_image(size):
    network = MapDiscriminator(3, 2, size, features=4)
    assert network(torch.rand(3, 3, *size), torch.randn(3, 2, *size)).shape == (3, 2)


def test_a_thin_axis_keeps_its_resolution():
    network = MapDiscriminator(1, 1, (3, 32, 32), features=2)
    assert [tuple(layer.stride) for layer in (network.of_map, *network.layers)] == [(1, 2, 2)] * 4
    assert network.of_map.kernel_size == (3, 4, 4)
    cubes = MapDiscriminator(1, 1, (8, 32, 32), features=2)
    assert [tuple(layer.stride) for layer in (cubes.of_map, *cubes.layers)] == [(2, 2, 2)] * 2 + [(1, 2, 2)] * 2


def test_map_and_image_both_matter_and_dropout_is_for_training_only():
    torch.manual_seed(0)
    network = MapDiscriminator(2, 1, (32, 32), features=4)
    maps, images = torch.rand(2, 2, 32, 32), torch.randn(2, 1, 32, 32)
    assert not torch.equal(network(maps, images), network(maps, images))
    network.eval()
    out = network(maps, images)
    assert torch.equal(out, network(maps, images))
    assert not torch.allclose(out, network(1 - maps, images)) and not torch.allclose(out, network(maps, -images))


def test_without_image_channels_it_sees_maps_alone():
    network = MapDiscriminator(2, 0, (32, 32), features=4).eval()
    maps, images = torch.rand(2, 2, 32, 32), torch.randn(2, 1, 32, 32)
    assert torch.equal(network(maps, images), network(maps, -images))
    assert not torch.allclose(network(maps, images), network(1 - maps, images))


def test_float32_under_autocast():
    network = MapDiscriminator(2, 1, (16, 16), features=4).eval()
    maps, images = torch.rand(1, 2, 16, 16), torch.randn(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(maps.bfloat16(), images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network(maps.bfloat16().float(), images))


def test_windows_of_the_mean_are_more_inputs_of_the_last_layer():
    assert MapDiscriminator(2, 1, (256, 256), features=2).classifier.in_features == 16
    assert MapDiscriminator(2, 1, (256, 256), features=2, window=(7, 7)).classifier.in_features == 4 * 16
