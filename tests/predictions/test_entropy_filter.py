"""Tests of `nnunet_ssl.predictions.entropy_filter`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_ssl.predictions.entropy_filter import case_entropy, entropy_threshold, is_uncertain, uncertain_cases


@pytest.mark.parametrize("spatial", [(2, 3), (2, 3, 2)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_entropy_of_uniform_and_certain_predictions(classes, spatial):
    uniform = np.full((classes, *spatial), 1 / classes, np.float32)
    assert case_entropy(uniform) == pytest.approx(math.log(classes), rel=1e-5)
    assert case_entropy(uniform, reduction="sum") == pytest.approx(math.log(classes) * np.prod(spatial), rel=1e-5)
    certain = np.zeros_like(uniform)
    certain[1] = 1
    assert case_entropy(certain) == pytest.approx(0, abs=1e-6)


def test_entropy_of_regions_counts_both_outcomes():
    p = np.array([[[0.5, 0.25]], [[1.0, 0.0]]], np.float32)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert case_entropy(p, "sigmoid") == pytest.approx((math.log(2) + quarter) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="reduction"):
        case_entropy(p, reduction="max")
    with pytest.raises(ValueError, match="activation"):
        case_entropy(p, "relu")


def test_the_easiest_cases_are_dropped():
    # 0, 1, ..., 20: the 15th percentile is 3
    entropies = {f"case_{i:02d}": float(i) for i in range(21)}
    assert entropy_threshold(list(entropies.values()), 15) == pytest.approx(3)
    assert uncertain_cases(entropies, 15) == [f"case_{i:02d}" for i in range(3, 21)]
    assert is_uncertain([5.0]).tolist() == [True] and is_uncertain([2.0, 2.0, 2.0]).all()
    with pytest.raises(ValueError, match="at least one"):
        entropy_threshold([])
    with pytest.raises(ValueError, match="percentile"):
        entropy_threshold([1.0], 101)
