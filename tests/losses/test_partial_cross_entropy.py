"""Cross entropy of annotated voxels, class weights, and their counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nnunet_ssl.losses.partial_cross_entropy import inverse_frequency_weights, partial_cross_entropy
from nnunet_ssl.losses.region import split_ignored


def example(dims: int = 2, classes: int = 3):
    """Logits, a target with the ignore label `classes`, and where it is annotated."""
    generator = torch.Generator().manual_seed(0)
    spatial = (4, 5, 3)[:dims]
    logits = torch.randn(2, classes, *spatial, generator=generator)
    sparse = torch.randint(0, classes + 1, (2, 1, *spatial), generator=generator)
    return logits, sparse, *split_ignored(sparse, classes, regions=False)


def test_by_hand():
    logits = torch.log(torch.tensor([[[0.75, 0.5, 0.1, 0.2], [0.25, 0.5, 0.9, 0.8]]]))
    target = torch.tensor([[[0, 1, 1, 0]]])
    annotated = torch.tensor([[[True, True, False, False]]])
    total = -math.log(0.75) - math.log(0.5)
    assert float(partial_cross_entropy(logits, target, annotated)) == pytest.approx(total / 2, rel=1e-6)
    assert float(partial_cross_entropy(logits, target, annotated, over="all")) == pytest.approx(total / 4, rel=1e-6)
    weights = torch.tensor([1.0, 3.0])
    total = -math.log(0.75) - 3 * math.log(0.5)
    found = partial_cross_entropy(logits, target, annotated, class_weights=weights)
    assert float(found) == pytest.approx(total / 4, rel=1e-6)
    found = partial_cross_entropy(logits, target, annotated, class_weights=weights, over="all")
    assert float(found) == pytest.approx(total / 4, rel=1e-6)
    only_first = partial_cross_entropy(logits, target, annotated, class_weights=torch.tensor([1.0, 0.0]))
    assert float(only_first) == pytest.approx(-math.log(0.75), rel=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_equals_torchs_cross_entropy_with_an_ignored_index(dims):
    logits, sparse, target, annotated = example(dims)
    weights = torch.tensor([0.5, 2.0, 7.0])
    for w in (None, weights):
        expected = F.cross_entropy(logits, sparse[:, 0], weight=w, ignore_index=3)
        found = partial_cross_entropy(logits, target, annotated, class_weights=w)
        torch.testing.assert_close(found, expected)


def test_regions_have_a_cross_entropy_each():
    logits = torch.tensor([[[0.0, 5.0], [math.log(3), 5.0]]])
    target = torch.tensor([[[True, True], [False, True]]])
    annotated = torch.tensor([[[True, False]]])
    by_hand = (-math.log(0.5) - math.log(0.25)) / 2
    assert float(partial_cross_entropy(logits, target, annotated, "sigmoid")) == pytest.approx(by_hand, rel=1e-6)


def test_what_is_not_annotated_has_no_gradient_and_nothing_annotated_is_zero():
    logits, _, target, annotated = example()
    logits.requires_grad_()
    for over in ("annotated", "all"):
        (gradient,) = torch.autograd.grad(partial_cross_entropy(logits, target, annotated, over=over), logits)
        where = annotated.expand_as(gradient)
        assert not gradient[~where].any() and gradient[where].abs().min() > 0
        nothing = partial_cross_entropy(logits, target, annotated & False, over=over)
        assert nothing.item() == 0
        assert not torch.autograd.grad(nothing, logits)[0].any()


def test_half_precision_logits_are_enlarged_first():
    logits, _, target, annotated = example()
    exact = partial_cross_entropy((100 * logits).half().float(), target, annotated)
    assert partial_cross_entropy((100 * logits).half(), target, annotated) == exact


def test_arguments_that_do_not_fit_are_refused():
    logits, _, target, annotated = example()
    with pytest.raises(ValueError, match="'annotated' or 'all'"):
        partial_cross_entropy(logits, target, annotated, over="batch")
    with pytest.raises(ValueError, match="one per class"):
        partial_cross_entropy(logits, target, annotated, class_weights=torch.ones(4))
    with pytest.raises(ValueError, match="one per class"):
        partial_cross_entropy(logits, target, annotated, "sigmoid", class_weights=torch.ones(3))


def test_inverse_frequency_weights_by_hand():
    weights = inverse_frequency_weights(torch.tensor([50, 25, 25]))
    torch.testing.assert_close(weights, torch.tensor([100 / 150, 100 / 75, 100 / 75]))
    weights = inverse_frequency_weights(torch.tensor([100_000, 1, 0]))
    torch.testing.assert_close(weights, torch.tensor([100_001 / 300_000, 10.0, 10.0]))
    assert float(inverse_frequency_weights(torch.tensor([1000, 1, 1]), lowest=0.5)[0]) == 0.5
    with pytest.raises(ValueError, match="there are none"):
        inverse_frequency_weights(torch.zeros(3))
