"""Tests of `nnunet_ssl.losses.adversarial_masks`."""

from __future__ import annotations

import torch

from nnunet_ssl.losses.adversarial_masks import (
    flip_signs,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)
from nnunet_ssl.networks.mask_discriminator import MaskDiscriminator, mask_levels


def test_least_squares_losses_by_hand():
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[-1.0], [1.0]])
    assert least_squares_discriminator_loss(real, fake).item() == 0.5 * 2 + 0.5 * 2
    assert least_squares_generator_loss(fake).item() == 0.5 * 2
    assert least_squares_generator_loss(fake.half()).dtype == torch.float32


def test_flipped_signs_change_the_value_and_not_the_gradient():
    x = torch.tensor([[2.0], [-3.0]], requires_grad=True)
    for probability, sign in ((0.0, 1), (1.0, -1)):
        output = flip_signs(x, probability)
        assert torch.equal(output, sign * x)
        (gradient,) = torch.autograd.grad((output * torch.tensor([[1.0], [5.0]])).sum(), x)
        assert gradient.tolist() == [[1], [5]]
    torch.manual_seed(0)
    flipped = sum(bool((flip_signs(x, 0.1) != x).all()) for _ in range(2000))
    assert 150 < flipped < 250


def test_a_discriminator_learns_to_tell_masks_from_noise_and_a_generator_follows_it():
    torch.manual_seed(0)
    discriminator = MaskDiscriminator(1, (16, 16), [[2, 2]], features=4)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    real = torch.zeros(8, 1, 16, 16)
    real[..., 4:12, 4:12] = 1
    fake = torch.rand(8, 1, 16, 16)
    levels = [mask_levels([x], discriminator.sizes) for x in (real, fake)]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = least_squares_discriminator_loss(*map(discriminator, levels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    logits = torch.randn(4, 1, 16, 16, requires_grad=True)
    generator = torch.optim.Adam([logits], 0.1)
    scores = []
    for _ in range(40):
        generator.zero_grad()
        loss = least_squares_generator_loss(discriminator(mask_levels([torch.sigmoid(logits)], discriminator.sizes)))
        loss.backward()
        generator.step()
        scores.append(loss.item())
    assert scores[-1] < 0.5 * scores[0]
