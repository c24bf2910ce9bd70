"""Entropies, thresholds and selections of `nnunet_ssl.predictions.uncertainty`, and the consistency on what is selected."""

import math

import pytest
import torch

from nnunet_ssl.predictions.uncertainty import (
    max_entropy,
    mean_probabilities,
    predictive_entropy,
    ramped_threshold,
    select_ambiguous,
    select_certain,
)

LN2, LN3 = math.log(2), math.log(3)


def logits_of(p):
    return torch.as_tensor(p).log()


def test_mean_of_passes_that_hold_the_batch_once_or_several_times():
    # two samples, two classes, one voxel: 2 passes of the batch twice = 4 predictions of each sample
    first = logits_of([[[0.5], [0.5]], [[0.2], [0.8]], [[0.7], [0.3]], [[0.4], [0.6]]])
    second = logits_of([[[0.9], [0.1]], [[0.6], [0.4]], [[0.1], [0.9]], [[0.0], [1.0]]])
    mean = mean_probabilities([first, second], samples=2)
    expected = torch.tensor([[[0.55], [0.45]], [[0.3], [0.7]]])  # (.5+.7+.9+.1)/4 and (.2+.4+.6+0)/4
    assert torch.allclose(mean, expected, atol=1e-6)
    singly = mean_probabilities((half for call in (first, second) for half in call.split(2)), samples=2)
    assert torch.allclose(mean, singly)


def test_mean_of_region_probabilities_and_in_float32():
    passes = [torch.zeros(1, 2, 4, dtype=torch.float16), torch.full((1, 2, 4), math.log(3), dtype=torch.float16)]
    mean = mean_probabilities(passes, 1, "sigmoid")
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, torch.full((1, 2, 4), (0.5 + 0.75) / 2), atol=1e-3)


def test_passes_that_are_no_repetition_of_the_batch_are_refused():
    with pytest.raises(ValueError, match="no repetition of 2"):
        mean_probabilities([torch.zeros(3, 2, 4)], 2)
    with pytest.raises(ValueError, match="no pass"):
        mean_probabilities([], 2)


@pytest.mark.parametrize("spatial", [(1, 2), (1, 1, 2)])
def test_entropy_of_three_classes(spatial):
    p = torch.tensor([[1 / 3, 0.5], [1 / 3, 0.5], [1 / 3, 0.0]]).reshape(1, 3, *spatial)
    entropy = predictive_entropy(p)
    assert entropy.shape == (1, 1, *spatial)
    # -ln(p + eps) is less than -ln p by eps/p: 3 * 1e-6 and 2 * 1e-6
    assert torch.allclose(entropy.flatten(), torch.tensor([LN3, LN2]), atol=4e-6)
    assert max_entropy(3) == pytest.approx(LN3)


def test_entropy_of_regions_is_binary_and_per_channel():
    p = torch.tensor([0.5, 0.0, 1.0, 0.9]).reshape(1, 4, 1, 1)
    entropy = predictive_entropy(p, "sigmoid")
    expected = [LN2, 0, 0, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    assert entropy.shape == p.shape
    assert entropy.flatten().tolist() == pytest.approx(expected, abs=4e-6)
    assert max_entropy(4, "sigmoid") == pytest.approx(LN2)


def test_entropy_has_finite_gradients_at_certainty():
    p = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    predictive_entropy(p).sum().backward()
    assert torch.isfinite(p.grad).all()


def test_threshold_moves_from_start_to_end_in_units_of_the_largest_entropy():
    assert ramped_threshold(1.0, 0.75, 1.0, LN2) == pytest.approx(LN2)
    assert ramped_threshold(0.0, 0.75, 1.0, LN2) == pytest.approx((0.75 + 0.25 * math.exp(-5)) * LN2)
    assert ramped_threshold(0.5, 0.75, 0.95) == pytest.approx(0.75 + 0.2 * math.exp(-1.25))
    assert ramped_threshold(2.0, 0.75, 0.95) == pytest.approx(0.95)


def test_certain_and_ambiguous_are_complements_without_gradient():
    entropy = torch.tensor([0.1, 0.5, 0.6], requires_grad=True)
    assert select_certain(entropy, 0.5).tolist() == [True, False, False]
    assert select_ambiguous(entropy, 0.5).tolist() == [False, True, True]
