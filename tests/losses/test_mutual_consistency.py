"""Mutual consistency: sharpening, pairs, and gradients through the targets."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.mutual_consistency import mutual_consistency, sharpened


def test_sharpening_by_hand_and_at_the_ends():
    p = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    expected = [0.0, 0.2**10 / (0.2**10 + 0.8**10), 0.5, 0.8**10 / (0.2**10 + 0.8**10), 1.0]
    assert sharpened(p, 0.1).tolist() == pytest.approx(expected, rel=1e-6)
    assert sharpened(p, 1.0).tolist() == pytest.approx(p.tolist())
    assert sharpened(p.float(), 0.001).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    ends = torch.tensor([0.0, 1.0]).requires_grad_()
    assert torch.autograd.grad(sharpened(ends, 0.1).sum(), ends)[0].isfinite().all()
    with pytest.raises(ValueError, match="positive, got 0"):
        sharpened(p, 0)


@pytest.mark.parametrize("detached", [False, True])
def test_ordered_pairs_are_summed(detached):
    z = [torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(3)]
    mask = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    mask[1, ..., 2:] = False
    loss = mutual_consistency(z, 0.1, mask=mask, detached=detached)
    p = [torch.softmax(x, 1) for x in z]
    expected = 0.0
    for i in range(3):
        for j in range(3):
            target = sharpened(p[j], 0.1)
            error = (p[i] - (target.detach() if detached else target)) ** 2
            expected = expected + (error[mask.expand_as(error)].mean() if i != j else 0.0)
    torch.testing.assert_close(loss, expected)
    for found, want in zip(torch.autograd.grad(loss, z, retain_graph=True), torch.autograd.grad(expected, z)):
        torch.testing.assert_close(found, want)
