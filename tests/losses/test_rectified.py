"""Rectified pseudo-label losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from nnunet_ssl.losses.rectified import (
    confident_pseudo_label_loss,
    divergence_map,
    pseudo_label_loss_map,
    rectified_mean,
    rectified_pseudo_label_loss,
)

STUDENT, TEACHER = (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)


KL = 0.1 * math.log(0.1 / 0.5) + 0.6 * math.log(0.6 / 0.2)


CE = -math.log(0.2)


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel with these class probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def test_one_voxel_by_hand():
    student, teacher = logits_of(*STUDENT), logits_of(*TEACHER)
    assert divergence_map(student, teacher).shape == pseudo_label_loss_map(student, teacher).shape == (1, 1, 1, 1)
    assert divergence_map(student, teacher).item() == pytest.approx(KL, rel=1e-5)
    assert pseudo_label_loss_map(student, teacher).item() == pytest.approx(CE, rel=1e-5)
    expected = CE * math.exp(-KL) + KL
    assert rectified_pseudo_label_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_one_voxel_of_two_regions_by_hand():
    student = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)  # 0.5, 0.5
    teacher = torch.tensor([math.log(9.0), -math.log(3.0)]).view(1, 2, 1, 1)  # 0.9, 0.25
    kl = [q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q)) for q in (0.9, 0.25)]
    assert divergence_map(student, teacher, "sigmoid").flatten().tolist() == pytest.approx(kl, rel=1e-4)
    expected = sum(math.log(2) * math.exp(-d) + d for d in kl) / 2
    assert rectified_pseudo_label_loss(student, teacher, "sigmoid").item() == pytest.approx(expected, rel=1e-5)
    # region 1 is taken for present with probability 0.9, region 2 for absent with 0.75 only
    confident = confident_pseudo_label_loss(student - 1, teacher, 0.8, "sigmoid")
    assert confident.item() == pytest.approx(math.log(1 + math.e) / 2, rel=1e-5)


def test_the_threshold_includes_itself_and_its_mean_goes_over_all_voxels():
    student = torch.cat((logits_of(0.2, 0.8), logits_of(0.2, 0.8)), dim=3)
    teacher = torch.cat((logits_of(0.95, 0.05), logits_of(0.6, 0.4)), dim=3)
    loss = -math.log(0.2)
    assert confident_pseudo_label_loss(student, teacher, 0.9).item() == pytest.approx(loss / 2, rel=1e-5)
    assert confident_pseudo_label_loss(student, teacher, 0.5).item() == pytest.approx(loss, rel=1e-5)
    certain = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
    assert confident_pseudo_label_loss(student[..., :1], certain, 1.0).item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "loss", [rectified_pseudo_label_loss, lambda s, t, *o: confident_pseudo_label_loss(s, t, 0.6, *o)]
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_the_gradient_is_that_of_the_value(loss, activation, spatial):
    student, teacher = draw(2, 3, *spatial, dtype=torch.float64).requires_grad_(), draw(2, 3, *spatial, seed=1).double()
    mask = draw(2, 1, *spatial, seed=2) > 0
    assert gradcheck(lambda s: loss(s, teacher, activation), (student,))
    assert gradcheck(lambda s: loss(s, teacher, activation, mask), (student,))


def test_only_counted_voxels_matter():
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    assert rectified_pseudo_label_loss(student, teacher, mask=mask).item() == 0
    mask[0, :, :2] = True
    expected = rectified_pseudo_label_loss(student[:1, :, :2], teacher[:1, :, :2])
    student[1] = float("nan")
    torch.testing.assert_close(rectified_pseudo_label_loss(student, teacher, mask=mask), expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_saturated_half_precision_logits_give_finite_numbers(activation):
    student = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).half().requires_grad_()
    loss = rectified_pseudo_label_loss(student, -student.detach(), activation)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32 and torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="one shape"):
        rectified_mean(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="one shape"):
        pseudo_label_loss_map(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="bool and broadcast"):
        rectified_mean(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
