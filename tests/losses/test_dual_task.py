"""Tests of `nnunet_ssl.losses.dual_task`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from nnunet_ssl.losses.dual_task import dual_task_consistency, level_set_mse, level_set_to_mask


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_level_set_becomes_a_mask_that_is_one_inside():
    mask = level_set_to_mask(torch.tensor([-1.0, 0.0, 1.0, math.log(3) / 1500]))
    assert mask.tolist() == pytest.approx([1, 0.5, 0, 0.25], abs=1e-6)
    assert level_set_to_mask(torch.full((1,), 60.0).half()).dtype == torch.float32


def test_consistency_by_hand_for_a_region_and_for_classes():
    level_set = torch.zeros(1, 1, 1, 1)
    logit = torch.full((1, 1, 1, 1), math.log(9.0))
    assert dual_task_consistency(level_set, logit, "sigmoid").item() == pytest.approx(0.4**2, rel=1e-5)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 3, 1, 1)
    both = torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1)
    assert dual_task_consistency(both, logits).item() == pytest.approx((0.7**2 + 0.3**2) / 2, rel=1e-5)


@pytest.mark.parametrize("activation, classes", [("softmax", 4), ("sigmoid", 3)])
@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_both_heads_get_the_gradient_of_the_value(activation, classes, spatial):
    level_set = (0.01 * draw(2, 3, *spatial, dtype=torch.float64)).requires_grad_()
    logits = draw(2, classes, *spatial, seed=1, dtype=torch.float64).requires_grad_()
    mask = draw(2, 1, *spatial, seed=2) > 0
    assert gradcheck(lambda z, s: dual_task_consistency(z, s, activation, -20.0, mask), (level_set, logits))
    maps = draw(2, 3, *spatial, seed=3, dtype=torch.float64)
    assert gradcheck(lambda z: level_set_mse(z, maps, mask), (level_set,))


def test_masks_say_what_counts_even_where_the_rest_is_not_finite():
    z, maps = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    maps[0, 0], maps[0, 1] = 0.5, float("nan")
    mask = torch.zeros(2, 2, 1, 1, dtype=torch.bool)
    assert level_set_mse(z, maps, mask).item() == 0
    mask[0, 0] = True
    assert level_set_mse(z, maps, mask).item() == pytest.approx(0.25)
    everything = level_set_mse(z[:, :1], maps[:, :1])
    assert everything.item() == pytest.approx(0.125)


def test_what_does_not_fit_is_an_error():
    z = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="one shape"):
        level_set_mse(z, z[:, :1])
    with pytest.raises(ValueError, match="shape of the objects"):
        dual_task_consistency(z, torch.zeros(1, 2, 3, 3), "softmax")
    with pytest.raises(ValueError, match="bool and broadcast"):
        level_set_mse(z, z, torch.ones(1, 2, 3, 3))
    with pytest.raises(ValueError, match="bool and broadcast"):
        level_set_mse(z, z, torch.ones(5, 2, 3, 3, dtype=torch.bool))
