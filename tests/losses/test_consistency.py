"""Consistency losses against numbers worked out by hand and PyTorch's own losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from nnunet_ssl.losses.consistency import (
    jensen_shannon,
    mutual_mse,
    softmax_kl,
    softmax_mse,
    symmetric_kl,
    symmetric_mse,
)
from tests.golden.reference.consistency import softmax_dice

ACTIVATED = [softmax_mse, softmax_kl, symmetric_kl, jensen_shannon, softmax_dice]


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel with these class probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


@pytest.mark.parametrize("loss", [*ACTIVATED, symmetric_mse])
def test_half_precision_logits_give_a_float32_loss_also_under_autocast(loss):
    student, teacher = draw(2, 3, 8, 8).half(), draw(2, 3, 8, 8, seed=1).half()
    exact = loss(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(student, teacher)
    assert under_autocast.dtype == torch.float32
    assert exact.dtype == torch.float64
    assert under_autocast.item() == pytest.approx(exact.item(), rel=1e-5)


def test_mse_of_one_voxel_by_hand():
    loss = softmax_mse(logits_of(0.5, 0.3, 0.2), logits_of(0.1, 0.3, 0.6))
    assert loss.item() == pytest.approx((0.4**2 + 0 + 0.4**2) / 3, rel=1e-5)
    both = softmax_mse(torch.zeros(1, 2, 1, 1), torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1), "sigmoid")
    assert both.item() == pytest.approx(0.25**2 / 2, rel=1e-5)


def test_kl_goes_from_the_teacher_to_the_student_and_its_mean_includes_the_classes():
    student, teacher = logits_of(0.5, 0.5), logits_of(0.9, 0.1)
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert softmax_kl(student, teacher).item() == pytest.approx(expected / 2, rel=1e-5)
    assert softmax_kl(teacher, student).item() != pytest.approx(expected / 2, rel=1e-2)


def test_kl_of_a_region_is_that_of_two_bernoulli_distributions():
    student, teacher = torch.zeros(1, 1, 1, 1), torch.tensor(math.log(9.0)).view(1, 1, 1, 1)  # 0.5 and 0.9
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert softmax_kl(student, teacher, "sigmoid").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("loss", [softmax_mse, softmax_kl])
def test_equal_predictions_cost_nothing_and_others_something(loss, activation):
    student = draw(2, 3, 5, 5)
    assert loss(student, student.clone(), activation).item() == pytest.approx(0, abs=1e-6)
    assert loss(student, draw(2, 3, 5, 5, seed=1), activation).item() > 0.01


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("loss", ACTIVATED)
@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_the_gradient_is_that_of_the_value_for_both_predictions(loss, activation, spatial):
    student, teacher = (draw(2, 3, *spatial, seed=i, dtype=torch.float64).requires_grad_() for i in (0, 1))
    mask = torch.rand(2, 1, *spatial, generator=torch.Generator().manual_seed(2)) > 0.3
    assert gradcheck(lambda s, t: loss(s, t, activation), (student, teacher))
    assert gradcheck(lambda s, t: loss(s, t, activation, mask), (student, teacher))


@pytest.mark.parametrize("loss", [*ACTIVATED, symmetric_mse])
def test_no_gradient_reaches_a_teacher_that_was_computed_without_one(loss):
    student, teacher = draw(1, 2, 4, 4).requires_grad_(), draw(1, 2, 4, 4, seed=1)
    loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [*ACTIVATED, symmetric_mse])
@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_a_mask_gives_the_loss_of_the_counted_voxels_alone(loss, spatial):
    student, teacher = draw(1, 3, *spatial), draw(1, 3, *spatial, seed=1)
    mask = torch.rand(1, 1, *spatial, generator=torch.Generator().manual_seed(2)) > 0.5
    counted = [x[:, :, mask[0, 0]].unsqueeze(-1) for x in (student, teacher)]
    masked = loss(student, teacher, mask=mask)
    torch.testing.assert_close(masked, loss(*counted))
    torch.testing.assert_close(loss(student, teacher, mask=torch.ones_like(mask)), loss(student, teacher))

    other = torch.where(mask, student, student + 7 * draw(*student.shape, seed=3))
    torch.testing.assert_close(loss(other, teacher, mask=mask), masked, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [*ACTIVATED, symmetric_mse])
def test_with_no_voxel_counted_the_loss_and_its_gradient_are_zero(loss):
    student, teacher = draw(2, 3, 4, 4).requires_grad_(), draw(2, 3, 4, 4, seed=1)
    value = loss(student, teacher, mask=torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("loss", [softmax_mse, softmax_kl])
def test_the_unreduced_loss_has_the_mean_of_the_reduced_one_and_zeros_where_nothing_counts(loss):
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    mask = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    unreduced = loss(student, teacher, reduction="none")
    assert unreduced.shape == student.shape
    torch.testing.assert_close(unreduced.mean(), loss(student, teacher))
    masked = loss(student, teacher, mask=mask, reduction="none")
    assert torch.equal(masked, unreduced * mask)


def test_kl_stays_finite_for_predictions_that_are_certain():
    certain = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    for activation in ("softmax", "sigmoid"):
        value = softmax_kl(certain, -certain.detach(), activation)
        (gradient,) = torch.autograd.grad(value, certain)
        assert value.isfinite() and value > 100
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [*ACTIVATED, symmetric_mse])
def test_shapes_that_would_broadcast_are_refused(loss):
    student = draw(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        loss(student, student[:1])
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(2, 1, 4, 4\)"):
        loss(student, student, mask=torch.ones(2, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be bool.*float32"):
        loss(student, student, mask=torch.ones(2, 1, 4, 4))


def test_an_unknown_activation_or_reduction_is_refused():
    student = draw(1, 2, 2, 2)
    for loss in ACTIVATED:
        with pytest.raises(ValueError, match=r"'softmax', 'sigmoid'.*'identity'"):
            loss(student, student, "identity")
    with pytest.raises(ValueError, match="'mean' or 'none', got 'sum'"):
        softmax_mse(student, student, reduction="sum")


def test_symmetric_mse_is_that_of_the_values_themselves():
    a, b = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    torch.testing.assert_close(symmetric_mse(a, b), torch.nn.functional.mse_loss(a, b))


def test_the_mutual_squared_difference_has_the_value_of_the_plain_one_and_half_its_gradient():
    p, q = draw(2, 3, 4, 5).requires_grad_(), draw(2, 3, 4, 5, seed=1).requires_grad_()
    plain, mutual = symmetric_mse(p, q), mutual_mse(p, q)
    torch.testing.assert_close(mutual, plain)
    for x in (p, q):
        whole, half = (torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (plain, mutual))
        torch.testing.assert_close(half, whole / 2)


def test_symmetric_kl_is_the_mean_of_both_directions():
    a, b = logits_of(0.5, 0.5), logits_of(0.9, 0.1)
    there = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    back = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert symmetric_kl(a, b).item() == pytest.approx((there + back) / 4, rel=1e-5)
    assert symmetric_kl(b, a).item() == pytest.approx((there + back) / 4, rel=1e-5)


@pytest.mark.parametrize("loss", [symmetric_kl, jensen_shannon])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_of_exactly_0_have_a_finite_gradient(loss, activation):
    a = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).requires_grad_()
    b = torch.tensor([-300.0, 300.0]).view(1, 2, 1, 1).requires_grad_()
    gradients = torch.autograd.grad(loss(a, b, activation), (a, b))
    assert all(g.isfinite().all() for g in gradients)


def test_jensen_shannon_by_hand_and_at_its_largest():
    def entropy(*p):
        return -sum(x * math.log(x) for x in p)

    loss = jensen_shannon(logits_of(0.5, 0.5), logits_of(0.9, 0.1))
    expected = entropy(0.7, 0.3) - (entropy(0.5, 0.5) + entropy(0.9, 0.1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    sure = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    assert jensen_shannon(sure, -sure).item() == pytest.approx(math.log(2), rel=1e-5)
    region = torch.tensor(math.log(9.0)).view(1, 1, 1, 1)  # 0.9, and the same with its complement as a class
    assert jensen_shannon(torch.zeros(1, 1, 1, 1), region, "sigmoid").item() == pytest.approx(expected, rel=1e-5)
