"""MAAG: least-squares adversarial losses, the discriminator of masks, unpaired masks."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.adversarial_masks import (
    balanced_cross_entropy,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    rescaled,
)


def test_least_squares_losses_by_hand():
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[-1.0], [1.0]])
    assert least_squares_discriminator_loss(real, fake).item() == 0.5 * 2 + 0.5 * 2
    assert least_squares_generator_loss(fake).item() == 0.5 * 2
    assert least_squares_generator_loss(fake.half()).dtype == torch.float32


def test_rescaled_has_the_size_of_the_reference_and_the_direction_of_the_loss():
    x = torch.tensor(4.0, requires_grad=True)
    reference = torch.tensor(-6.0, requires_grad=True)
    loss = rescaled(x**2, reference)
    assert loss.item() == 6.0
    loss.backward()
    assert x.grad.item() == pytest.approx(6 / 16 * 8) and reference.grad is None


@pytest.mark.parametrize("spatial", [(2, 2), (2, 2, 1)])
def test_balanced_cross_entropy_by_hand(spatial):
    logits = torch.zeros(1, 3, 4)
    logits[0, 1] = math.log(2)  # probabilities 1/4, 1/2, 1/4
    target, annotated = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[True, True, True, False]]])
    shaped = (logits.reshape(1, 3, *spatial), *(x.reshape(1, 1, *spatial) for x in (target, annotated)))
    # n / n_c: 3 for class 0, 3/2 for class 1; class 2 is not annotated. The mean goes over 4 voxels
    expected = (3 * math.log(4) + 2 * 1.5 * math.log(2)) / 4
    assert balanced_cross_entropy(*shaped).item() == pytest.approx(expected, rel=1e-6)
    ignored = torch.where(shaped[2], shaped[1], 3)  # an ignore label beyond the classes
    assert balanced_cross_entropy(shaped[0], ignored, shaped[2]).item() == pytest.approx(expected, rel=1e-6)
    assert balanced_cross_entropy(shaped[0], ignored, ~shaped[2] & shaped[2]).item() == 0
