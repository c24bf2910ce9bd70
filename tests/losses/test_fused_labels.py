"""The label of the fused beliefs of two networks."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.fused_labels import fused_label
from nnunet_ssl.predictions.evidence import asymptotic_weights, beliefs, fused_beliefs


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_label_and_its_weights(activation):
    first, second = draw(2, 3, 4, 5).requires_grad_(), draw(2, 3, 4, 5, seed=1).requires_grad_()
    inside = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    inside[0, ..., :2] = False
    found, found_weights = fused_label(first, second, 0.2, 0.7, activation, inside)
    axis = 1 if activation == "softmax" else 2
    belief, uncertainty = fused_beliefs(beliefs(first, activation), beliefs(second, activation), axis)
    if activation == "softmax":
        label = belief.argmax(1, keepdim=True)
    else:
        label, uncertainty = (belief[:, :, 0] > belief[:, :, 1]), uncertainty[:, :, 0]
    weights = asymptotic_weights(uncertainty, 0.2, 0.7, inside).mean(1, keepdim=True)
    torch.testing.assert_close(found_weights, weights)
    assert torch.equal(found.bool() if activation == "sigmoid" else found, label)
    assert weights[~inside].abs().max() == 0 and not found.requires_grad and not found_weights.requires_grad
