"""Tests of `nnunet_ssl.losses.intensity_variance`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.intensity_variance import intensity_variance, memberships
from nnunet_ssl.losses.mumford_shah import level_set, mumford_shah
from nnunet_ssl.patches.slices import fold_slices


def example(dims: int, activation: str = "softmax", channels: int = 1):
    """Probabilities of three classes or regions, images in [0, 1], and a mask that leaves out a corner."""
    generator = torch.Generator().manual_seed(0)
    spatial = (4, 7, 6)[-dims:]
    logits = torch.randn(2, 3, *spatial, generator=generator)
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    mask = torch.ones(2, 1, *spatial, dtype=torch.bool)
    mask[0, ..., :3, :2] = False
    return p, torch.rand(2, channels, *spatial, generator=generator), mask


def test_constant_intensities_inside_objects_cost_nothing():
    p = torch.zeros(1, 2, 6, 6)
    p[:, 0, :, :3], p[:, 1, :, 3:] = 1, 1
    image = torch.where(p[:, 1:] == 1, 0.8, 0.1)
    assert float(intensity_variance(p, image)) == pytest.approx(0, abs=1e-12)
    assert float(level_set(p, image)) == pytest.approx(0, abs=1e-10)
    wrong = p.roll(1, 3)
    assert float(intensity_variance(wrong, image)) > 0.1


def test_an_empty_region_is_not_the_best_one():
    image = torch.zeros(1, 1, 6, 6)
    image[..., 3:] = 1
    right, empty = image.clone(), torch.zeros_like(image)
    for loss in (intensity_variance, mumford_shah):
        options = {} if loss is intensity_variance else {"tv_weight": 0.0}
        assert float(loss(right, image, "sigmoid", **options)) < float(loss(empty, image, "sigmoid", **options))
    assert memberships(right, "sigmoid").shape == (1, 2, 6, 6)


def test_voxels_at_the_minimum_do_not_count_for_the_background():
    p = torch.full((1, 2, 1, 4), 0.5)
    image = torch.tensor([[[[0.0, 0.2, 0.4, 0.6]]]])
    foreground = ((image - 0.3) ** 2).mean()
    background = ((image[..., 1:] - 0.4) ** 2).mean()
    found = intensity_variance(p, image, without_minimum=True)
    assert float(found) == pytest.approx(float(foreground + background), rel=1e-5)
    found = intensity_variance(p[:, :1], image, "sigmoid", without_minimum=True)
    assert float(found) == pytest.approx(float(foreground + background), rel=1e-5)
    mask = torch.tensor(
        [[[[False, True, True, True]]]]
    )  # padding has the lowest value; the minimum is that of the rest
    found = intensity_variance(p, image, mask=mask, without_minimum=True)
    assert float(found) == pytest.approx(float(background + ((image[..., 2:] - 0.5) ** 2).mean()), rel=1e-5)


def test_folded_slices_are_the_slices():
    volume = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    slices = fold_slices(volume)
    assert slices.shape == (8, 3, 5, 6)
    assert torch.equal(slices[4 + 1], volume[1, :, 1])
    p, images, mask = example(3)
    of_slices = intensity_variance(fold_slices(p), fold_slices(images), mask=fold_slices(mask))
    by_hand = [intensity_variance(p[:, :, z], images[:, :, z], mask=mask[:, :, z]) for z in range(4)]
    torch.testing.assert_close(of_slices, torch.stack(by_hand).mean())


@pytest.mark.parametrize("without_minimum", [False, True])
def test_items_of_padding_alone_do_not_count(without_minimum):
    p, images, mask = example(2)
    expected = intensity_variance(p[:1], images[:1], mask=mask[:1], without_minimum=without_minimum)
    mask[1] = False
    p.requires_grad_()
    found = intensity_variance(p, images, mask=mask, without_minimum=without_minimum)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert p.grad[0].any() and not p.grad[1].any()
