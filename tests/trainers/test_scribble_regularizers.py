"""Entropy, contour length, Mumford-Shah and intensity variance: what the unlabeled voxels of sparse labels are told."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.contour import contour_length, soft_contour
from nnunet_ssl.losses.entropy import entropy_loss
from nnunet_ssl.losses.intensity_variance import intensity_scatter, intensity_variance, memberships
from nnunet_ssl.losses.mumford_shah import level_set, mumford_shah, total_variation
from nnunet_ssl.patches.slices import fold_slices, has_thick_slices

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


# ----------------------------------------------------------------------------------------------------- by hand


def test_entropy_by_hand():
    p = torch.tensor([[[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]])
    third = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert float(entropy_loss(p, relative=False)) == pytest.approx((math.log(2) + third) / 3, abs=1e-5)
    assert float(entropy_loss(p)) == pytest.approx((1 + third / math.log(2)) / 3, abs=1e-5)
    mask = torch.tensor([[[True, True, False]]])
    assert float(entropy_loss(p, mask=mask)) == pytest.approx(0.5, abs=1e-5)
    regions = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    assert float(entropy_loss(regions, "sigmoid")) == pytest.approx(0.5, abs=1e-5)
    sure = torch.tensor([[[1.0], [0.0]]])
    s = 5e-4
    squeezed = -((1 - s) * math.log(1 - s) + s * math.log(s)) / math.log(2)
    assert float(entropy_loss(sure, eps=0.0, squeeze=s)) == pytest.approx(squeezed, rel=1e-4)


def test_contour_of_a_square_by_hand():
    foreground = torch.zeros(1, 1, 9, 9)
    foreground[..., 2:7, 2:7] = 1  # eroded: 3 x 3, dilated again: 5 x 5
    contour = soft_contour(foreground)[0, 0]
    expected = foreground[0, 0].clone()
    expected[3:6, 3:6] = 0
    assert torch.equal(contour, expected)
    p = torch.cat((1 - foreground, foreground), 1)
    assert float(contour_length(p)) == pytest.approx(16 / 81)
    outside = torch.zeros(9, 9)  # background, eroded by one: a ring of one voxel that dilation widens to two
    outside[1:8, 1:8] = 1
    outside[2:7, 2:7] = 0
    assert float(contour_length(p, background=True)) == pytest.approx((16 + outside.sum()) / 2 / 81)
    assert float(contour_length(foreground, "sigmoid")) == pytest.approx(16 / 81)


def test_contour_of_a_cube_and_of_its_slices():
    cube = torch.zeros(1, 1, 7, 7, 7)
    cube[..., 2:5, 2:5, 2:5] = 1
    assert float(contour_length(cube, "sigmoid")) == pytest.approx(26 / 343)
    assert float(contour_length(fold_slices(cube), "sigmoid")) == pytest.approx(3 * 8 / 343)


def test_an_object_cut_by_padding_has_no_contour_there():
    p = torch.zeros(1, 1, 6, 8)
    p[..., :5] = 1
    mask = torch.ones(1, 1, 6, 8, dtype=torch.bool)
    mask[..., 5:] = False  # the object fills all that is counted; beyond it is padding
    assert float(contour_length(p, "sigmoid")) > 0
    assert float(contour_length(p, "sigmoid", mask)) == 0


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


# ------------------------------------------------------------------------------------------- what all have in common


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


def test_folded_slices_are_the_slices():
    volume = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    slices = fold_slices(volume)
    assert slices.shape == (8, 3, 5, 6)
    assert torch.equal(slices[4 + 1], volume[1, :, 1])
    p, images, mask = example(3)
    of_slices = intensity_variance(fold_slices(p), fold_slices(images), mask=fold_slices(mask))
    by_hand = [intensity_variance(p[:, :, z], images[:, :, z], mask=mask[:, :, z]) for z in range(4)]
    torch.testing.assert_close(of_slices, torch.stack(by_hand).mean())


def test_thick_slices_are_those_nnunet_calls_anisotropic():
    assert has_thick_slices((5.0, 1.5, 1.5))
    assert not has_thick_slices((4.5, 1.5, 1.5))
    assert not has_thick_slices((1.0, 1.0, 1.0))
    assert not has_thick_slices((10.0, 1.0))
