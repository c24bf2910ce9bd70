"""Tests of `nnunet_ssl.predictions.probabilities`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.predictions.probabilities import most_probable, probabilities


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel with these class probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def test_probabilities_sum_to_one_with_softmax_and_are_per_channel_with_sigmoid():
    logits = draw(2, 3, 4, 5, 6)
    torch.testing.assert_close(probabilities(logits, "softmax").sum(1), torch.ones(2, 4, 5, 6))
    torch.testing.assert_close(probabilities(logits, "sigmoid"), 1 / (1 + (-logits).exp()))
    with pytest.raises(ValueError, match=r"'softmax', 'sigmoid'.*'relu'"):
        probabilities(logits, "relu")


def test_the_most_probable_class_is_the_lowest_of_equals_and_has_no_gradient():
    values = draw(2, 4, 6, 5).round().requires_grad_()  # rounded: many are equal
    found = most_probable(values)
    assert found.dtype == torch.int64 and not found.requires_grad
    expected = [
        [[min(c for c in range(4) if v[c] == max(v))] for v in sample.flatten(1).T.tolist()] for sample in values
    ]
    assert found.flatten(2).mT.tolist() == expected
