"""Tests of `nnunet_ssl.losses.entropy`."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.entropy import clean_entropy, entropy_loss


def test_entropy_of_clean_voxels_belongs_to_the_voxel():
    p = torch.full((1, 2, 2), 0.5)
    noisy = torch.tensor([[[True, False], [False, False]]])
    assert clean_entropy(p, noisy).item() == pytest.approx(0.5, abs=1e-5)
    assert clean_entropy(p, noisy, mask=torch.tensor([[[False, True]]])).item() == pytest.approx(1.0, abs=1e-5)
    assert clean_entropy(p, noisy, activation="sigmoid").item() == pytest.approx(0.75, abs=1e-5)
    assert math.isfinite(clean_entropy(p, noisy, as_released=True).item())


def test_entropy_by_hand():
    p = torch.tensor([[[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]])
    third = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert float(entropy_loss(p, relative=False)) == pytest.approx((math.log(2) + third) / 3, abs=1e-5)
    assert float(entropy_loss(p)) == pytest.approx((1 + third / math.log(2)) / 3, abs=1e-5)
    mask = torch.tensor([[[True, True, False]]])
    assert float(entropy_loss(p, mask=mask)) == pytest.approx(0.5, abs=1e-5)
    regions = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    assert float(entropy_loss(regions, "sigmoid")) == pytest.approx(0.5, abs=1e-5)
    sure = torch.tensor([[[1.0], [0.0]]])
    s = 5e-4
    squeezed = -((1 - s) * math.log(1 - s) + s * math.log(s)) / math.log(2)
    assert float(entropy_loss(sure, eps=0.0, squeeze=s)) == pytest.approx(squeezed, rel=1e-4)
    assert float(entropy_loss(p, channels=4)) == pytest.approx(float(entropy_loss(p)) / 2, rel=1e-6)
