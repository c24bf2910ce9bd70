"""Tests of `nnunet_ssl.losses.size`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.size import barrier_steepness, extended_log_barrier, scaled_bounds, size_loss, soft_sizes
from tests.golden.reference.size import precise_bounds


def test_barrier_is_continuous_and_smooth_at_its_edge():
    t = 5.0
    edge = torch.tensor([-1 / t**2], dtype=torch.float64)
    z = torch.cat((edge - 1e-9, edge + 1e-9)).requires_grad_()
    values = extended_log_barrier(z, t)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-7)
    torch.testing.assert_close(slopes, torch.full((2,), t, dtype=torch.float64), rtol=1e-6, atol=0)
    values = extended_log_barrier(torch.tensor([-1.0, -math.e, 2.0]), t)
    by_hand = torch.tensor([0.0, -1 / t, 2 * t - math.log(1 / t**2) / t + 1 / t])
    torch.testing.assert_close(values, by_hand)


@pytest.mark.parametrize("t", [5.0, 1000.0])
def test_barrier_has_no_infinite_gradient(t):
    z = torch.tensor([-1e5, -1e-9, 0.0, 1e-9, 1e5]).requires_grad_()
    (slopes,) = torch.autograd.grad(extended_log_barrier(z, t).sum(), z)
    assert slopes.isfinite().all() and (slopes > 0).all() and slopes.max() == t


def test_steepness_grows_up_to_a_limit():
    assert barrier_steepness(5, 1.1, 0) == 5
    assert barrier_steepness(5, 1.1, 20) == pytest.approx(33.637, rel=1e-4)
    assert barrier_steepness(5, 1.1, 100, highest=1000) == 1000


def test_sizes_and_bounds_by_hand():
    p = torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[[[True, True], [True, False]]], [[[True, False], [True, False]]]])
    assert soft_sizes(p).tolist() == [[1.75], [4.0]]
    assert soft_sizes(p, mask).tolist() == [[1.5], [2.0]]
    assert soft_sizes(p, batch=True).tolist() == [[5.75]]
    assert scaled_bounds(torch.tensor([10.0]), 0.5, 0.9).tolist() == [[5.0, 9.0]]
    torch.testing.assert_close(precise_bounds(torch.tensor([10.0, 0.0])), torch.tensor([[9.0, 11.0], [0.0, 0.0]]))
    bounds = torch.tensor([2.0, 3.0])
    assert float(size_loss(soft_sizes(p), bounds, voxels=4)) == pytest.approx((0.25**2 + 1) / 2 / 4)
    assert float(size_loss(soft_sizes(p), bounds, 4, reduction="sum")) == pytest.approx((0.25**2 + 1) / 4)
    only_upper = size_loss(soft_sizes(p), bounds, 4, counted=torch.tensor([False, True]), reduction="sum")
    assert float(only_upper) == pytest.approx(1 / 4)
    psi = lambda z: float(extended_log_barrier(torch.tensor(z), 5.0))  # noqa: E731
    barrier = size_loss(soft_sizes(p), bounds, 4, t=5.0, reduction="sum")
    assert float(barrier) == pytest.approx((psi(0.25) + psi(-1.25) + psi(-2.0) + psi(1.0)) / 4, rel=1e-5)
    only_upper = size_loss(soft_sizes(p), torch.tensor([-math.inf, 3.0]), 4, t=5.0, counted=torch.tensor([False, True]))
    assert float(only_upper) == pytest.approx((psi(-1.25) + psi(1.0)) / 2 / 4, rel=1e-5)


def test_a_bound_that_does_not_count_has_no_gradient():
    sizes = torch.tensor([[5.0, 5.0]], requires_grad=True)
    counted = torch.tensor([[[False, False], [True, True]]])
    for t in (None, 5.0):
        loss = size_loss(sizes, torch.tensor([7.0, 8.0]), 10, t=t, counted=counted)
        (gradient,) = torch.autograd.grad(loss, sizes)
        assert gradient[0, 0] == 0 and gradient[0, 1] < 0
