"""Losses of PA-Seg and WSCL, with numbers checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.points import mirror_consistency
from tests.golden.reference.points import distillation_loss, partial_dice_ce


def logits_of(*probabilities):
    """Logits `(B, 2, 1, V)` with the given probabilities of class 1."""
    p = torch.tensor(probabilities, dtype=torch.float32)[:, None, None]
    return torch.cat((torch.log(1 - p), torch.log(p)), 1).requires_grad_()


def test_partial_dice_ce_by_hand_and_items_without_annotation_do_not_count():
    logits = logits_of([0.8, 0.5, 0.1], [0.3, 0.3, 0.3])
    target = torch.tensor([[1, 1, 0], [0, 0, 0]])[:, None, None]
    annotated = torch.tensor([[True, False, True], [False, False, False]])[:, None, None]
    entropy = -(math.log(0.8) + math.log(0.9)) / 2
    dice = [2 * 0.9 / (0.2 + 0.9 + 1), 2 * 0.8 / (0.8 + 0.1 + 1)]
    expected = entropy + 1 - sum(dice) / 2
    loss = partial_dice_ce(logits, target, annotated)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert (logits.grad[:, :, 0][~annotated.expand(-1, 2, -1, -1)[:, :, 0]] == 0).all()
    assert (logits.grad[0] != 0).any()


def test_partial_dice_ce_weighs_items_alike_whatever_the_number_of_their_points():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (2, 1, 4, 5), generator=torch.Generator().manual_seed(1))
    annotated = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    annotated[0], annotated[1, :, 0, 0] = True, True
    single = [partial_dice_ce(logits[i : i + 1], target[i : i + 1], annotated[i : i + 1]) for i in (0, 1)]
    assert partial_dice_ce(logits, target, annotated).item() == pytest.approx(float(sum(single)) / 2, rel=1e-6)
    assert partial_dice_ce(logits, target).item() == pytest.approx(
        partial_dice_ce(logits, target, torch.ones_like(annotated)).item()
    )


def test_partial_dice_ce_without_any_annotation_is_zero_with_a_gradient_of_zero():
    logits = logits_of([0.8, 0.5])
    loss = partial_dice_ce(logits, torch.zeros(1, 1, 1, 2, dtype=torch.long), torch.zeros(1, 1, 1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 2, 4, 5)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_distillation_is_zero_for_equal_predictions_and_goes_to_the_teacher(shape, activation):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    assert distillation_loss(student, student, activation=activation).abs() < 1e-6
    student.requires_grad_()
    loss = distillation_loss(student, teacher, activation=activation)
    (gradient,) = torch.autograd.grad(loss, student)
    closer = distillation_loss(student - gradient, teacher, activation=activation)
    assert 0 < closer < loss


def test_distillation_by_hand_with_a_mask():
    student, teacher = logits_of([0.2, 0.5]), logits_of([0.6, 0.9])
    mask = torch.tensor([True, False])[None, None, None]
    expected = 0.6 * math.log(0.6 / 0.2) + 0.4 * math.log(0.4 / 0.8)
    assert distillation_loss(student, teacher, 1.0, mask=mask).item() == pytest.approx(expected, rel=1e-5)
    # one region of a Bernoulli distribution: the same number
    p, q = (torch.logit(torch.tensor([[[[v]]]])) for v in (0.2, 0.6))
    assert distillation_loss(p, q, 1.0, "sigmoid").item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(2 * student, 2 * teacher, 2.0, mask=mask).item() == pytest.approx(4 * expected, rel=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        distillation_loss(student, teacher, 0.0)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("shape, axes", [((2, 2, 4, 5), (3,)), ((1, 2, 3, 4, 5), (2, 4))])
def test_mirror_consistency_compares_the_same_places(activation, shape, axes):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mirrored = torch.flip(logits, axes)
    assert mirror_consistency(logits, mirrored, axes, activation) < 1e-7
    assert mirror_consistency(logits, logits, axes, activation).item() > 0
    # a prediction that differs in one corner differs there, wherever the mirrored copy has this corner
    first, last = [0] * (len(shape) - 2), [-1] * (len(shape) - 2)
    changed = logits.clone()
    changed[(0, 0, *last)] += 5
    for corner, differs in ((first, False), (last, True)):
        mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
        mask[(0, 0, *corner)] = True
        value = mirror_consistency(logits, torch.flip(changed, axes), axes, activation, mask)
        assert (value > 0.01) == differs and (value > 1e-7) == differs


def test_mirror_consistency_by_hand_and_gradients_through_both():
    first, second = logits_of([0.8, 0.1]), logits_of([0.3, 0.6])
    # mirrored back: 0.6, 0.3; differences 0.2 and 0.2, the same for both classes
    loss = mirror_consistency(first, second, (3,))
    assert loss.item() == pytest.approx(0.2, rel=1e-5)
    loss.backward()
    assert (first.grad != 0).all() and (second.grad != 0).all()
    with pytest.raises(ValueError, match="one shape"):
        mirror_consistency(first, second[..., :1], (3,))
