"""Tests of `nnunet_ssl.networks.mask_discriminator`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.networks.mask_discriminator import MaskDiscriminator, mask_levels


@pytest.mark.parametrize(
    "size, strides, sizes",
    [
        ((32, 48), [[2, 2]] * 5, [[32, 48], [16, 24], [8, 12], [4, 6]]),
        ((24, 24), [[2, 2]], [[24, 24], [12, 12]]),
        ((24, 24), [], [[24, 24]]),
        ((6, 32, 32), [[1, 2, 2], [2, 2, 2], [2, 2, 2]], [[6, 32, 32], [6, 16, 16], [3, 8, 8], [1, 4, 4]]),
    ],
)
def test_the_discriminator_gives_one_number_per_mask_and_sees_every_level(size, strides, sizes):
    torch.manual_seed(0)
    discriminator = MaskDiscriminator(2, size, strides, features=4)
    assert discriminator.sizes == sizes
    masks = [torch.rand(3, 2, *s, requires_grad=True) for s in sizes]
    output = discriminator(masks)
    assert output.shape == (3, 1)
    output[1].sum().backward()
    for mask in masks:
        assert (mask.grad[1] != 0).any() and not (mask.grad[[0, 2]] != 0).any()
    discriminator.eval()
    assert torch.equal(discriminator(masks), discriminator(masks))
    assert discriminator([m.half() for m in masks]).dtype == torch.float32


def test_blocks_have_the_spectral_norm_1_and_noise_is_for_training():
    torch.manual_seed(0)
    discriminator = MaskDiscriminator(1, (16, 16), [[2, 2], [2, 2]], features=4)
    masks = mask_levels([torch.rand(2, 1, 16, 16)], discriminator.sizes)
    for _ in range(50):
        discriminator(masks)
    for block in discriminator.blocks:
        assert torch.linalg.matrix_norm(block.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
    noisy = {discriminator(masks)[0, 0].item() for _ in range(3)}
    assert len(noisy) == 3


def test_masks_of_lower_levels_are_resized_where_they_are_not_given():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    mask[..., 0, 0] = 0
    levels = mask_levels([mask], [(4, 4), (2, 2)])
    assert levels[0] is mask and levels[1][0, 0].tolist() == [[0.75, 0], [1, 0]]
    given = torch.full((1, 1, 2, 2), 0.3)
    assert mask_levels([mask, given], [(4, 4), (2, 2)])[1] is given
    assert len(mask_levels([mask, given, given], [(4, 4), (2, 2)])) == 2
    assert mask_levels([torch.ones(1, 2, 4, 4, 2)], [(4, 4, 2), (2, 2, 1)])[1].shape == (1, 2, 2, 2, 1)
