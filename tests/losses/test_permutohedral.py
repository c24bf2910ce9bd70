"""Tests of `nnunet_ssl.losses.permutohedral`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.permutohedral import _embed, _simplex, permutohedral_filter


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_points_lie_in_their_simplex(d):
    features = 4 * torch.randn(200, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    points = _embed(features)
    # in the hyperplane, with all distances scaled alike
    assert points.sum(1).abs().max() < 1e-12
    factor = torch.pdist(points) / torch.pdist(features)
    assert torch.allclose(factor, torch.full_like(factor, math.sqrt(2 / 3) * (d + 1)))
    corners, weights = _simplex(points)
    assert weights.min() > -1e-12 and torch.allclose(weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(torch.einsum("nr,nrk->nk", weights, corners.double()), points)
    assert corners.sum(-1).abs().max() == 0
    remainders = torch.arange(d + 1).expand(200, d + 1)
    assert all(torch.equal(corners[..., k] % (d + 1), remainders) for k in range(d + 1))


def test_one_point_alone_by_hand():
    # It lies on one corner of its triangle, the others exist too. In each of three blurs the corner keeps its value and gives half
    # of it to a neighbor; the three directions add up to 0, so that half of half of half comes back around the triangle.
    out = permutohedral_filter(torch.tensor([[3.0], [-1.0]]), torch.zeros(1, 2))
    assert out.flatten().tolist() == pytest.approx([3 * 1.125 / 1.25, -1.125 / 1.25])


@pytest.mark.parametrize("d", [1, 2])
def test_on_many_points_the_lattice_is_nearly_proportional_to_the_gaussian_sum(d):
    axes = torch.meshgrid(*[torch.linspace(0, 8, 60 if d == 1 else 33)] * d, indexing="ij")
    features = torch.stack(axes, -1).flatten(0, -2)
    values = torch.rand(2, len(features), generator=torch.Generator().manual_seed(0))
    exact = values @ torch.exp(-0.5 * torch.cdist(features, features).square())
    ratio = permutohedral_filter(values, features) / exact
    assert ratio.std() / ratio.mean() < 0.05


def test_points_that_are_far_apart_do_not_meet_and_too_many_cells_are_refused():
    values = torch.rand(1, 2, generator=torch.Generator().manual_seed(0))
    features = torch.tensor([[0.3, 0.1, 7.0], [50.0, -80.0, 0.2]])
    together = permutohedral_filter(values, features)
    apart = [permutohedral_filter(values[:, i : i + 1], features[i : i + 1]) for i in range(2)]
    assert torch.allclose(together, torch.cat(apart, 1))
    with pytest.raises(ValueError, match="too many lattice cells"):
        permutohedral_filter(torch.ones(1, 2), torch.tensor([[0.0] * 8, [1e5] * 8]))
