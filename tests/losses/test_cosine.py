"""Tests of `nnunet_ssl.losses.cosine`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.cosine import cosine_distance


def test_cosine_distance_by_hand():
    p = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]]])
    q = torch.tensor([[[2.0, 1.0, 4.0], [0.0, 0.0, 3.0]]])
    assert cosine_distance(p, q).item() == pytest.approx((0 + 1 + (1 - 24 / 25)) / 3, rel=1e-6)
    mask = torch.tensor([[[True, False, True]]])
    assert cosine_distance(p, q, mask).item() == pytest.approx((1 - 24 / 25) / 2, rel=1e-5)
    assert cosine_distance(p, q, ~mask & mask).item() == 0
    with pytest.raises(ValueError, match="one shape"):
        cosine_distance(p, q[:, :1])


@pytest.mark.parametrize("spatial", [(4, 4), (2, 4, 3)])
def test_each_sample_is_masked_by_its_own_holes(spatial):
    """The official code of ShapePU broadcasts the masks of all samples against each other."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(3, 4, *spatial, generator=generator) for _ in range(2))
    mask = torch.rand(3, 1, *spatial, generator=generator) > 0.5
    each = [(1 - torch.cosine_similarity(a, b, 0))[m[0]] for a, b, m in zip(p, q, mask)]
    assert cosine_distance(p, q, mask).item() == pytest.approx(torch.cat(each).mean().item(), rel=1e-5)


def test_cosine_distance_sends_gradients_to_both_and_none_into_holes():
    p, q = (torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[:, :, :2] = False
    cosine_distance(p.half(), q.half(), mask).backward()
    for x in (p, q):
        assert (x.grad[:, :, 2:] != 0).any() and not (x.grad[:, :, :2] != 0).any() and x.grad.isfinite().all()


def test_gradients_are_those_of_the_formula_and_vectors_of_zeros_have_none():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    expected = torch.autograd.grad((1 - torch.cosine_similarity(p, q, 1)).mean(), (p, q))
    for found, wanted in zip(torch.autograd.grad(cosine_distance(p, q), (p, q)), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(cosine_distance, (p, q), check_undefined_grad=False)
    (only,) = torch.autograd.grad(cosine_distance(p, q.detach()), p)
    torch.testing.assert_close(only, expected[0])
    nothing = torch.zeros(1, 2, 5, requires_grad=True)
    loss = cosine_distance(nothing, torch.ones(1, 2, 5))
    assert loss == 1 and torch.autograd.grad(loss, nothing)[0].abs().max() == 0
