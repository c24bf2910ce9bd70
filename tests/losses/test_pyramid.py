"""Consistency of scales: by hand, for one region, and where probabilities are 0."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.pyramid import pyramid_consistency, pyramid_divergences, pyramid_terms, upsampled


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def kl(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q, p))


def test_one_voxel_by_hand():
    first, second, mean = (0.9, 0.1), (0.5, 0.5), (0.7, 0.3)
    scales = [logits_of(*first), logits_of(*second)]
    divergences = [d.item() for d in pyramid_divergences(scales)]
    assert divergences == pytest.approx([kl(mean, first), kl(mean, second)], rel=1e-4)
    # the weight of a single voxel cancels
    expected = [0.04 + kl(mean, p) for p in (first, second)]
    assert [t.item() for t in pyramid_terms(scales)] == pytest.approx(expected, rel=1e-4)
    assert pyramid_consistency(scales).item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_a_region_is_two_classes():
    z = [torch.tensor(math.log(9.0)).view(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)]  # 0.9 and 0.5
    both = [logits_of(0.9, 0.1), logits_of(0.5, 0.5)]
    for a, b in zip(pyramid_divergences(z, "sigmoid"), pyramid_divergences(both)):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(pyramid_consistency(z, "sigmoid"), pyramid_consistency(both))


def test_a_voxel_that_disagrees_weighs_less():
    far, near = [logits_of(0.99, 0.01), logits_of(0.01, 0.99)], [logits_of(0.6, 0.4), logits_of(0.5, 0.5)]
    joined = [torch.cat(pair, -1) for pair in zip(far, near)]
    rectified = pyramid_terms(joined)[0] - torch.cat([pyramid_divergences(x)[0] for x in (far, near)]).mean()
    d = [pyramid_divergences(x)[0].item() for x in (far, near)]
    w = [math.exp(-x) for x in d]
    errors = [0.49**2, 0.05**2]
    assert w[0] < w[1]
    expected = (w[0] * errors[0] + w[1] * errors[1]) / (w[0] + w[1])
    assert rectified.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_padding_has_no_gradient_and_zeros_have_a_finite_one(activation):
    scales = [torch.randn(2, 3, 4, 4).requires_grad_() for _ in range(3)]
    with torch.no_grad():
        scales[0][:, 0] = 400.0
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[..., 0] = False
    gradients = torch.autograd.grad(pyramid_consistency(scales, activation, mask), scales)
    assert all(g.isfinite().all() and g[..., 0].abs().max() == 0 for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("spatial", [(8, 6), (8, 6, 4)])
def test_lower_scales_come_up_to_the_first(spatial):
    scales = [torch.randn(1, 2, *spatial), torch.ones(1, 2, *(s // 2 for s in spatial))]
    for mode in ("linear", "nearest"):
        full, up = upsampled(scales, mode)
        assert full is scales[0] and torch.equal(up, torch.ones_like(full))
    with pytest.raises(ValueError, match="'cubic'"):
        upsampled(scales, "cubic")
