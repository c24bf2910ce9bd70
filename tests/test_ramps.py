from __future__ import annotations

import math
from itertools import pairwise

import pytest

from nnunet_ssl.ramps import (
    cosine_rampdown,
    delayed,
    delayed_sigmoid_rampup,
    ends_a_part,
    linear_rampup,
    poly_lr,
    ramp_progress,
    sigmoid_rampup,
    stepwise_progress,
    warmup_poly,
)


@pytest.mark.parametrize(
    "ramp, at_start, half_way, at_end",
    [
        (sigmoid_rampup, math.exp(-5), math.exp(-1.25), 1.0),
        (linear_rampup, 0.0, 0.5, 1.0),
        (cosine_rampdown, 1.0, 0.5, 0.0),
    ],
)
def test_a_ramp_has_its_published_values_and_is_constant_beyond_its_ends(ramp, at_start, half_way, at_end):
    assert ramp(0.0) == ramp(-3.0) == at_start
    assert ramp(0.5) == pytest.approx(half_way, rel=1e-12)
    assert ramp(1.0) == ramp(1.5) == ramp(math.inf) == at_end
    assert ramp(0.5, 4.0) == pytest.approx(4 * half_way, rel=1e-12)


@pytest.mark.parametrize("ramp, sign", [(sigmoid_rampup, 1), (linear_rampup, 1), (cosine_rampdown, -1)])
def test_a_ramp_moves_in_one_direction_only(ramp, sign):
    values = [sign * ramp(i / 50) for i in range(51)]
    assert all(a < b for a, b in pairwise(values))


def test_a_ramp_of_length_zero_is_complete_from_the_beginning():
    assert ramp_progress(0, 0) == math.inf
    assert sigmoid_rampup(ramp_progress(0, 0)) == linear_rampup(ramp_progress(0, 0)) == 1.0


def test_progress_is_the_fraction_of_the_length():
    assert ramp_progress(3, 12) == 0.25
    assert ramp_progress(24, 12) == 2.0


@pytest.mark.parametrize("current, length", [(-1, 10), (1, -10)])
def test_a_negative_position_or_length_is_refused(current, length):
    with pytest.raises(ValueError, match="must not be negative"):
        ramp_progress(current, length)


def test_the_stepwise_progress_of_ssl4mis_moves_every_150_iterations():
    assert stepwise_progress(149, 150, 200) == 0
    assert stepwise_progress(150, 150, 200) == stepwise_progress(299, 150, 200) == 1 / 200
    assert stepwise_progress(30000, 150, 200) == 1


def test_poly_lr_starts_at_the_initial_rate_ends_at_zero_and_stays_real_beyond():
    assert poly_lr(0.01, 0.0) == 0.01
    assert poly_lr(0.01, 0.75, exponent=0.5) == pytest.approx(0.005, rel=1e-12)
    assert poly_lr(0.01, 1.0) == poly_lr(0.01, 1.2) == 0.0


@pytest.mark.parametrize("epochs, parts, last", [(6, 3, [1, 3]), (10, 4, [2, 4, 7]), (1000, 1, []), (2, 20, [0])])
def test_parts_of_the_training_end_at_equal_distances_and_its_end_does_not_count(epochs, parts, last):
    assert [epoch for epoch in range(epochs) if ends_a_part(epoch, epochs, parts)] == last


def test_a_delayed_weight_is_zero_before_its_start_and_untouched_from_it_on():
    assert [delayed(0.3, iteration, 1000) for iteration in (0, 999, 1000, 5000)] == [0.0, 0.0, 0.3, 0.3]


def test_a_delayed_ramp_is_zero_before_its_start_and_complete_after_start_and_length():
    assert delayed_sigmoid_rampup(0.0999, 0.1, 0.4, 3.0) == 0
    assert delayed_sigmoid_rampup(0.1, 0.1, 0.4, 3.0) == pytest.approx(3 * math.exp(-5))
    assert delayed_sigmoid_rampup(0.3, 0.1, 0.4, 3.0) == pytest.approx(3 * math.exp(-1.25))
    assert delayed_sigmoid_rampup(0.51, 0.1, 0.4, 3.0) == delayed_sigmoid_rampup(1.0, 0.1, 0.4, 3.0) == 3
    assert delayed_sigmoid_rampup(0.0, 0.0, 0.0) == 1


def test_a_warm_up_rises_in_equal_steps_and_then_decays_over_the_rest():
    assert [warmup_poly(epoch, 8, 3) for epoch in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_poly(7, 8, 3) == pytest.approx(0.2**0.9)
    assert warmup_poly(0, 8, 0) == 1.0
