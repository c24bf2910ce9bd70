"""Intensities in [0, 1] by percentiles of the voxels inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.intensity import inside_percentiles, rescale_to_unit


def test_minimum_and_maximum_by_hand():
    images = torch.tensor([[[-2.0, 0.0, 2.0, 50.0]]])
    inside = torch.tensor([[[True, True, True, False]]])
    assert rescale_to_unit(images, inside, (0, 100)).tolist() == [[[0.0, 0.5, 1.0, 0.0]]]
    assert rescale_to_unit(images, None, (0, 100))[0, 0].tolist() == pytest.approx([0, 2 / 52, 4 / 52, 1])


@pytest.mark.parametrize("shape", [(2, 3, 17, 13), (3, 1, 5, 6, 7)])
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0, 100), (10, 42.3)])
def test_percentiles_are_numpys(shape, percentiles):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator)
    inside = torch.rand(shape[0], 1, *shape[2:], generator=generator) > 0.3
    found = inside_percentiles(images, inside, percentiles)
    for b in range(shape[0]):
        for c in range(shape[1]):
            expected = np.percentile(images[b, c][inside[b, 0]].numpy(), percentiles)
            assert np.allclose(found[:, b, c], expected, atol=1e-6)


def test_images_and_channels_are_independent_and_the_scale_of_an_image_does_not_matter():
    images = torch.randn(2, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    factor = torch.tensor([1.0, 40.0, 0.3, 7.0]).view(2, 2, 1, 1)
    unit = rescale_to_unit(images)
    assert unit.min() == 0 and unit.max() == 1
    assert torch.allclose(rescale_to_unit(images * factor + factor), unit, atol=1e-5)
    assert torch.equal(rescale_to_unit(images[1:])[0], unit[1])


def test_what_is_outside_does_not_matter_not_even_if_it_is_nan():
    images = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    inside = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    inside[..., 4:] = False
    expected = rescale_to_unit(images[..., :4])
    for value in (0.0, 1e6, float("nan")):
        images[..., 4:] = value
        unit = rescale_to_unit(images, inside)
        assert torch.equal(unit[..., :4], expected) and unit[..., 4:].abs().max() == 0


def test_constant_channels_empty_images_and_half_precision():
    images = torch.stack((torch.full((1, 4, 4), 3.0), torch.arange(16.0).view(1, 4, 4)))
    inside = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    assert rescale_to_unit(images, inside)[0].abs().max() == 0
    inside[1] = False
    assert rescale_to_unit(images, inside).abs().max() == 0
    assert rescale_to_unit(images.half()).dtype == torch.float32
    assert rescale_to_unit(images.double()).dtype == torch.float64


def test_wrong_arguments():
    images = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"inside must be bool of shape \(1, 1, 4, 4\)"):
        rescale_to_unit(images, torch.ones(1, 2, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="two increasing numbers"):
        rescale_to_unit(images, None, (99, 1))
    with pytest.raises(ValueError, match=r"in \[0, 100\]"):
        rescale_to_unit(images, None, (0, 101))
