from __future__ import annotations

import pytest
import torch

from nnunet_ssl.patches.perturbations import add_clipped_noise, clipped_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_scaled_and_then_clipped():
    normal = torch.tensor([-5.0, -1.0, 0.0, 0.5, 3.0])
    assert clipped_noise(normal, 0.5, 1.0).tolist() == [-1.0, -0.5, 0.0, 0.25, 1.0]


def test_zero_std_changes_nothing():
    images = torch.randn(2, 3, 4, 5)
    assert torch.equal(add_clipped_noise(images, 0.0), images)


@pytest.mark.parametrize("limit, largest", [(None, 0.2), (0.15, 0.15)])
def test_added_noise_has_the_asked_spread_and_never_exceeds_its_limit(limit, largest):
    noise = add_clipped_noise(torch.zeros(4, 2, 32, 32, 32), 0.1, limit, generator())
    assert noise.abs().max() == pytest.approx(largest)
    inside = noise[noise.abs() < largest - 1e-6]
    # the standard deviation of a normal that is cut at +-k: k = 2 and 1.5 standard deviations
    assert inside.std().item() == pytest.approx({0.2: 0.08796, 0.15: 0.07427}[largest], rel=0.01)
    assert abs(noise.mean().item()) < 1e-3


@pytest.mark.parametrize("spatial", [(16, 16), (8, 8, 8)])
def test_samples_and_channels_get_independent_noise(spatial):
    noise = add_clipped_noise(torch.zeros(3, 2, *spatial), 0.1, generator=generator()).flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(noise)
    assert (correlation - torch.eye(6)).abs().max() < 0.25


def test_the_same_generator_state_gives_the_same_noise_and_the_images_are_not_changed():
    images = torch.randn(1, 1, 6, 6)
    before = images.clone()
    first, second = (add_clipped_noise(images, 0.1, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, add_clipped_noise(images, 0.1, generator=generator(4)))
    assert torch.equal(images, before)


def test_given_normal_values_are_used_instead_of_drawn_ones():
    images = torch.ones(1, 1, 2, 2)
    normal = torch.tensor([[[[1.0, -1.0], [9.0, 0.0]]]])
    expected = torch.tensor([[[[1.5, 0.5], [2.0, 1.0]]]])
    assert torch.equal(add_clipped_noise(images, 0.5, normal=normal), expected)
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 2\), got \(2, 2\)"):
        add_clipped_noise(images, 0.5, normal=normal[0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_type_of_the_images_is_kept(dtype):
    assert add_clipped_noise(torch.zeros(1, 1, 4, 4, dtype=dtype), 0.1).dtype == dtype


@pytest.mark.parametrize("std, limit", [(-0.1, None), (0.1, -0.2)])
def test_negative_spread_or_limit_is_refused(std, limit):
    with pytest.raises(ValueError, match="must not be negative"):
        add_clipped_noise(torch.zeros(1, 1, 2, 2), std, limit)
