"""Tests of `nnunet_ssl.losses.mumford_shah`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.contour import contour_length
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.losses.intensity_variance import intensity_scatter, intensity_variance
from nnunet_ssl.losses.mumford_shah import level_set, mumford_shah, total_variation

LOSSES = {
    "entropy": lambda p, images, activation, mask: entropy_loss(p, activation, mask),
    "contour": lambda p, images, activation, mask: contour_length(p, activation, mask),
    "mumford_shah": mumford_shah,
    "variance": intensity_variance,
}


def example(dims: int, activation: str = "softmax", channels: int = 1):
    """Probabilities of three classes or regions, images in [0, 1], and a mask that leaves out a corner."""
    generator = torch.Generator().manual_seed(0)
    spatial = (4, 7, 6)[-dims:]
    logits = torch.randn(2, 3, *spatial, generator=generator)
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    mask = torch.ones(2, 1, *spatial, dtype=torch.bool)
    mask[0, ..., :3, :2] = False
    return p, torch.rand(2, channels, *spatial, generator=generator), mask


def test_level_set_and_total_variation_by_hand():
    p = torch.tensor([[[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]]]])
    image = torch.tensor([[[[0.0, 0.3, 0.9]]]])
    mean = (0.15 / 1.5, (0.15 + 0.9) / 1.5)
    first = mean[0] ** 2 + 0.5 * (0.3 - mean[0]) ** 2
    second = 0.5 * (0.3 - mean[1]) ** 2 + (0.9 - mean[1]) ** 2
    assert float(level_set(p, image)) == pytest.approx(first + second, rel=1e-6)
    assert float(level_set(p, image.repeat(1, 2, 1, 1))) == pytest.approx(2 * (first + second), rel=1e-6)
    assert float(total_variation(p)) == pytest.approx(2.0)
    assert float(total_variation(p, order=2)) == pytest.approx(1.0)
    assert float(mumford_shah(p, image, tv_weight=0.1)) == pytest.approx((first + second + 0.2) / 6, rel=1e-6)
    scatter, size = intensity_scatter(p, image)
    torch.testing.assert_close(size, torch.tensor([[1.5, 1.5]]))
    torch.testing.assert_close(scatter, torch.tensor([[first, second]]))
    assert float(intensity_variance(p, image)) == pytest.approx((first + second) / 1.5, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_voxels_that_do_not_count_change_nothing_and_have_no_gradient(name, dims, activation):
    p, images, mask = example(dims, activation, channels=2)
    loss = LOSSES[name]
    where = mask.expand_as(p)
    results = []
    for seed in (1, 2):
        garbage = torch.rand(p.shape, generator=torch.Generator().manual_seed(seed))
        q = torch.where(where, p, garbage).requires_grad_()
        value = loss(q, torch.where(mask, images, garbage[:, :1]), activation, mask)
        (gradient,) = torch.autograd.grad(value, q)
        assert not gradient[~where].any() and gradient[where].abs().max() > 0
        results.append(value)
    torch.testing.assert_close(results[0], results[1])
    everything = torch.ones_like(mask)
    torch.testing.assert_close(loss(p, images, activation, everything), loss(p, images, activation, None))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counted_is_zero_with_a_gradient_of_zero(name):
    p, images, mask = example(2)
    p.requires_grad_()
    value = LOSSES[name](p, images, "softmax", mask & False)
    assert value.item() == 0
    assert not torch.autograd.grad(value, p)[0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_float16_probabilities_of_a_large_patch_stay_finite(name):
    p = torch.zeros(1, 2, 320, 320, dtype=torch.float16)
    p[:, 0], p[:, 1, :100] = 1, 1
    p[:, 0, :100] = 0
    images = torch.rand(1, 1, 320, 320, generator=torch.Generator().manual_seed(0))
    found = LOSSES[name](p, images, "softmax", None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, LOSSES[name](p.double(), images.double(), "softmax", None).float())
