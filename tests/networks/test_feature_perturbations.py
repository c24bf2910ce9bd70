"""Perturbations of features, by hand."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.networks.feature_perturbations import (
    ElementDropout,
    FeatureDropout,
    FeatureNoise,
    kept_elements,
    noisy_features,
    without_strongest,
)


def test_noise_is_in_proportion_to_the_feature_and_the_same_for_all_samples():
    x = torch.tensor([[[[1.0, 2.0]]], [[[10.0, 0.0]]]])
    noise = torch.tensor([[[0.5, -0.25]]])
    assert noisy_features(x, noise).flatten().tolist() == [1.5, 1.5, 15.0, 0.0]
    (first,) = FeatureNoise(0.3)([torch.ones(3, 2, 4, 5)])
    assert (first == first[:1]).all() and first.min() >= 0.7 and first.max() <= 1.3 and first.std() > 0


def test_the_strongest_positions_of_each_sample_are_dropped():
    x = torch.tensor([[1.0, 2.0, 4.0], [8.0, 7.0, 0.5]]).view(2, 1, 1, 3)
    assert without_strongest(x, 0.8).flatten().tolist() == [1.0, 2.0, 0.0, 0.0, 0.0, 0.5]
    assert without_strongest(torch.cat((x, -x), 1), 0.8).abs().sum() > 0  # a mean of 0 everywhere


def test_features_without_a_positive_position_stay():
    x = -torch.rand(1, 2, 3, 4, 5) - 0.1
    assert torch.equal(without_strongest(x, 0.8), x)
    (kept,) = FeatureDropout((0.7, 0.9))([x])
    assert torch.equal(kept, x)


def test_dropout_of_elements_keeps_the_mean():
    x = torch.tensor([[2.0, 4.0]]).view(1, 2, 1, 1)
    assert kept_elements(x, torch.tensor([[True, False]]).view(1, 2, 1, 1), 0.5).flatten().tolist() == [4.0, 0.0]
    torch.manual_seed(0)
    (dropped,) = ElementDropout(0.3)([torch.ones(2, 8, 32, 32)])
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        ElementDropout(1)
