"""Tests of `nnunet_ssl.losses.discrepancy`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.discrepancy import feature_discrepancy, mutual_discrepancy


def test_equal_orthogonal_and_opposite_features():
    a = torch.tensor([[[3.0, 0.0, 2.0]], [[0.0, 1.0, 0.0]]]).movedim(0, 1)  # one sample, two channels, three positions
    b = torch.tensor([[[6.0, 4.0, -5.0]], [[0.0, 0.0, 0.0]]]).movedim(0, 1)
    each = [float(feature_discrepancy(a[..., i : i + 1], b[..., i : i + 1])) for i in range(3)]
    assert each == pytest.approx([2, 1, 0])
    assert float(feature_discrepancy(a, b)) == pytest.approx(1)
    assert float(mutual_discrepancy(a, b)) == pytest.approx(2)
    with pytest.raises(ValueError, match="one shape"):
        feature_discrepancy(a, b[..., :1])


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_each_direction_moves_its_own_features(spatial):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 5, *spatial, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    feature_discrepancy(a, b).backward()
    assert a.grad.abs().min() > 0 and b.grad is None
    assert torch.autograd.gradcheck(lambda x: feature_discrepancy(x, b), a)
    alone = a.grad.clone()
    a.grad = None
    mutual_discrepancy(a, b).backward()
    assert torch.allclose(a.grad, alone) and b.grad.abs().min() > 0


def test_large_half_precision_and_zero_features_stay_finite():
    a = torch.full((1, 64, 2, 2), 6e4).half().requires_grad_()
    loss = feature_discrepancy(a, a)
    loss.backward()
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(2)
    assert a.grad.isfinite().all()
    nothing = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = feature_discrepancy(nothing, torch.ones(1, 4, 2, 2))
    loss.backward()
    assert float(loss.detach()) == 1 and nothing.grad.isfinite().all()
