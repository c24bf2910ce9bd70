"""MCF's losses by hand."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.mutual_correction import (
    competing_label,
    disagreement,
    mutual_loss,
    rectification_loss,
    sharpen,
)


def logits_of(*probabilities):
    """One sample `(1, C, voxels)` from the class probabilities of each voxel."""
    return torch.tensor(probabilities).log().T[None]


def test_disagreement_and_rectification_by_hand():
    first, second = logits_of([0.8, 0.2], [0.4, 0.6]), logits_of([0.9, 0.1], [0.7, 0.3])
    target = torch.tensor([[[0, 0]]])
    differ = disagreement(first, second)
    assert differ.tolist() == [[[False, True]]]
    assert float(rectification_loss(first, target, differ)) == pytest.approx(0.36)
    assert float(rectification_loss(second, target, differ)) == pytest.approx(0.09)
    assert not disagreement(first, second, mask=torch.tensor([[[True, False]]])).any()
    agreed = first.clone().requires_grad_()
    loss = rectification_loss(agreed, target, differ & False)
    loss.backward()
    assert float(loss.detach()) == 0 and agreed.grad.abs().max() == 0
    with pytest.raises(ValueError, match="one shape"):
        disagreement(first, second[..., :1])


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_two_classes_are_the_official_form_and_gradients_are_those_of_the_value(spatial):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 2, *spatial, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.randint(0, 2, (2, 1, *spatial), generator=generator)
    differ = disagreement(first, second)
    foreground = torch.softmax(first, 1)[:, 1:]
    official = ((first.argmax(1) == 1) ^ (second.argmax(1) == 1))[:, None]
    assert torch.equal(differ, official)
    expected = ((foreground - target) ** 2)[official].mean()
    assert torch.isclose(rectification_loss(first, target, differ), expected)
    assert torch.autograd.gradcheck(lambda z: rectification_loss(z, target, differ), first.requires_grad_())


def test_more_classes_by_hand():
    first, second = logits_of([0.5, 0.3, 0.2]), logits_of([0.2, 0.5, 0.3])
    differ = disagreement(first, second)
    error = (0.5**2 + 0.7**2 + 0.2**2) / 3
    assert float(rectification_loss(first, torch.tensor([[[1]]]), differ)) == pytest.approx(error)


def test_regions_disagree_one_by_one():
    first, second = torch.tensor([[[2.0, -1.0]], [[1.0, 1.0]]])[None], torch.tensor([[[2.0, 1.0]], [[-1.0, 1.0]]])[None]
    differ = disagreement(first, second, "sigmoid")
    assert differ.tolist() == [[[[False, True]], [[True, False]]]]
    target = torch.zeros(1, 2, 1, 2, dtype=torch.bool)
    p = torch.sigmoid(first)
    by_hand = (p[0, 0, 0, 1] ** 2 + p[0, 1, 0, 0] ** 2) / 2
    assert torch.isclose(rectification_loss(first, target, differ, "sigmoid"), by_hand)
    mask = torch.tensor([[[[True, False]]]])
    assert disagreement(first, second, "sigmoid", mask).sum() == 1


def test_sharpening_is_a_power_and_does_not_underflow():
    p = torch.tensor([[[0.2], [0.3], [0.5]]])
    assert torch.allclose(sharpen(p.log(), 0.5), p**2 / (p**2).sum(1, keepdim=True))
    assert sharpen(torch.tensor([[[60.0], [0.0]]]).half(), 0.1).isfinite().all()
    with pytest.raises(ValueError, match="temperature"):
        sharpen(p, 0)


@pytest.mark.parametrize("first_is_better", [True, False])
def test_only_the_worse_network_learns(first_is_better):
    a, b = (logits_of(p).requires_grad_() for p in ([0.8, 0.2], [0.4, 0.6]))
    better = torch.tensor(first_is_better)
    label = competing_label(a, b, better, 1.0)
    losses = mutual_loss(a, label, better), mutual_loss(b, label, ~better)
    expected = (0.8 - 0.4) ** 2
    values = [float(x.detach()) for x in losses]
    assert values == pytest.approx([0.0, expected] if first_is_better else [expected, 0.0])
    sum(losses).backward()
    moved = [a.grad.abs().max() > 0, b.grad.abs().max() > 0]
    assert moved == [not first_is_better, first_is_better]


def test_the_label_is_that_of_the_better_network():
    a, b = logits_of([0.8, 0.2]), logits_of([0.4, 0.6])
    for first_is_better, better in ((True, a), (False, b)):
        assert torch.equal(competing_label(a, b, torch.tensor(first_is_better), 0.1), sharpen(better, 0.1))


def test_padding_does_not_count_in_the_mutual_loss():
    logits, label = logits_of([0.8, 0.2], [0.4, 0.6]), logits_of([0.9, 0.1], [0.4, 0.6]).softmax(1)
    worse, mask = torch.tensor(False), torch.tensor([[[True, False]]])
    assert float(mutual_loss(logits, label, worse, mask=mask)) == pytest.approx(0.01)
    assert float(mutual_loss(logits, label, worse, mask=mask & False)) == 0
