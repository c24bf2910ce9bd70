"""Tests of `nnunet_ssl.losses.combine`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.combine import over_scales, weighted_sum


def test_the_total_is_the_weighted_sum_and_its_gradient_the_weighted_one():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    total = weighted_sum({"a": a, "b": b}, {"a": 1.0, "b": 0.5, "of another step": 9.0})
    total.backward()
    assert (total.item(), a.grad.item(), b.grad.item()) == (3.5, 1.0, 0.5)


def test_nan_in_a_term_of_weight_zero_reaches_neither_the_total_nor_the_gradient():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    total = weighted_sum({"bad": b * math.nan, "a": a}, {"bad": 0.0, "a": 1.0})
    total.backward()
    assert total.item() == 2.0
    assert b.grad is None


def test_a_single_term_of_weight_one_is_passed_on_bit_for_bit():
    term = torch.tensor(1 / 3, requires_grad=True)
    assert weighted_sum({"a": term}, {"a": 1.0}).item() == term.item()


def test_the_total_of_inactive_terms_is_zero():
    total = weighted_sum({"a": torch.tensor(math.nan)}, {"a": 0.0})
    assert total.item() == 0
    assert total.shape == ()


def test_a_term_without_weight_and_a_step_without_terms_are_refused():
    with pytest.raises(ValueError, match=r"\['consistensy'\].*\['consistency'\]"):
        weighted_sum({"consistensy": torch.tensor(1.0)}, {"consistency": 1.0})
    with pytest.raises(ValueError, match="no loss term"):
        weighted_sum({}, {"a": 1.0})


def test_a_term_over_heads_is_weighted_and_leaves_heads_of_weight_zero_alone():
    scales = [torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1, 2, 2), 5.0), torch.full((1, 1, 1, 1), float("nan"))]
    assert over_scales(torch.Tensor.mean, scales, (0.75, 0.25, 0.0)).item() == 0.75 * 3 + 0.25 * 5
    with pytest.raises(ValueError):
        over_scales(torch.Tensor.mean, scales, (1.0,))
