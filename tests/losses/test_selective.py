"""Tests of `nnunet_ssl.losses.selective`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.losses.selective import selective_mse, uncertainty_weighted_mse

LN2 = math.log(2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_consistency_weighted_by_uncertainty_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([1 - 1e-9, 1e-9])
    student, teacher = (x.log().reshape(1, 2, 1, 1) for x in (p, q))
    # |p - q|^2 = 0.5; entropies ln 2 and 0
    expected = 0.5 / (2**3 + 1) + 3 * LN2
    assert uncertainty_weighted_mse(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("spatial", [(4, 3), (3, 2, 4)])
def test_a_region_is_the_two_classes_inside_and_outside(spatial):
    student, teacher = draw(2, 3, *spatial), draw(2, 3, *spatial, seed=1)
    as_classes = [
        uncertainty_weighted_mse(
            *(torch.stack((torch.zeros_like(z[:, r]), z[:, r]), 1) for z in (student, teacher)), beta=0.7
        )
        for r in range(3)
    ]
    regions = uncertainty_weighted_mse(student, teacher, 0.7, "sigmoid")
    assert regions.item() == pytest.approx(sum(as_classes).item() / 3, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_only_voxels_in_the_mask_count(activation):
    student, teacher = draw(2, 4, 3, 5), draw(2, 4, 3, 5, seed=1)
    mask = torch.zeros(2, 1, 3, 5, dtype=torch.bool)
    mask[..., :2] = True
    found = uncertainty_weighted_mse(student, teacher, 2.0, activation, mask)
    expected = uncertainty_weighted_mse(student[..., :2], teacher[..., :2], 2.0, activation)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    student.requires_grad_()
    loss = uncertainty_weighted_mse(student, teacher, 2.0, activation, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


def test_saturated_half_precision_logits_give_finite_numbers():
    student = torch.tensor([30000.0, -30000.0, 0.0]).half().reshape(1, 3, 1, 1).requires_grad_()
    loss = uncertainty_weighted_mse(student, -student.detach(), 5.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all() and loss.dtype == torch.float32


def test_the_released_sum_is_the_same_number_and_wrong_shapes_are_refused():
    student, teacher = draw(3, 4, 3, 5), draw(3, 4, 3, 5, seed=1)
    released = uncertainty_weighted_mse(student, teacher, 2.0, as_released=True).item()
    assert released == pytest.approx(uncertainty_weighted_mse(student, teacher, 2.0).item(), rel=1e-6)
    for wrong, mask in ((teacher[:1], None), (teacher, torch.ones(3, 4, 3, 5, dtype=torch.bool))):
        with pytest.raises(ValueError, match="one shape and the mask one channel"):
            uncertainty_weighted_mse(student, wrong, 2.0, mask=mask)


def logits_of(p):
    return torch.as_tensor(p).log()


def two_voxels():
    # squared differences: voxel 0: 0.3^2 in both channels, voxel 1: 0.1^2 in both
    student = logits_of([[[0.8, 0.4], [0.2, 0.6]]]).reshape(1, 2, 1, 2)
    teacher = logits_of([[[0.5, 0.5], [0.5, 0.5]]]).reshape(1, 2, 1, 2)
    return student, teacher


def test_selective_mse_is_the_mean_over_selected_voxels_and_channels():
    student, teacher = two_voxels()
    first = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    assert selective_mse(student, teacher, first).item() == pytest.approx(0.09)
    assert selective_mse(student, teacher, ~first).item() == pytest.approx(0.01)
    assert selective_mse(student, teacher, first | True).item() == pytest.approx(0.05)
    assert selective_mse(student, teacher, first, channels=1).item() == pytest.approx(0.18)
    per_channel = torch.tensor([[True, True], [False, False]]).reshape(1, 2, 1, 2)
    assert selective_mse(student, teacher, per_channel).item() == pytest.approx(0.05)
    outside = torch.tensor([False, True]).reshape(1, 1, 1, 2)
    assert selective_mse(student, teacher, first | True, mask=outside).item() == pytest.approx(0.01)


def test_nothing_selected_is_zero_with_a_gradient_of_zero_also_in_float16():
    student, teacher = two_voxels()
    student = student.half().requires_grad_()
    nothing = torch.zeros(1, 1, 1, 2, dtype=torch.bool)
    loss = selective_mse(student, teacher.half(), nothing)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert not student.grad.any()


def test_gradient_only_in_selected_voxels():
    student, teacher = two_voxels()
    student.requires_grad_()
    selective_mse(student, teacher, torch.tensor([True, False]).reshape(1, 1, 1, 2)).backward()
    assert student.grad[..., 0].abs().min() > 0
    assert not student.grad[..., 1].any()


@pytest.mark.parametrize("selected", [torch.ones(1, 3, 1, 2, dtype=torch.bool), torch.ones(1, 1, 1, 2)])
def test_selections_that_do_not_fit_are_refused(selected):
    with pytest.raises(ValueError, match="selected must be bool"):
        selective_mse(*two_voxels(), selected)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_selecting_everything_is_the_plain_consistency(spatial, activation):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, *spatial, generator=generator)
    for channels in (1, 4):
        everything = torch.ones(3, channels, *spatial, dtype=torch.bool)
        assert torch.allclose(
            selective_mse(student, teacher, everything, activation), softmax_mse(student, teacher, activation)
        )
