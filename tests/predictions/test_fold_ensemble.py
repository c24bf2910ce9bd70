"""The mean of probabilities as logits: exact, also where a probability rounds to 0 or 1."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.predictions.fold_ensemble import mean_as_logits


def draw(seed: int) -> torch.Tensor:
    return 5 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_probabilities_are_the_mean_of_those_of_all_networks(number):
    logits = [draw(seed) for seed in range(number)]
    softmax = torch.stack([z.softmax(0) for z in logits]).mean(0)
    torch.testing.assert_close(mean_as_logits(iter(logits)).softmax(0), softmax)
    sigmoid = torch.stack([z.sigmoid() for z in logits]).mean(0)
    torch.testing.assert_close(mean_as_logits(iter(logits), "sigmoid").sigmoid(), sigmoid)


def test_the_mean_of_probabilities_is_not_that_of_logits():
    one, other = torch.tensor([[10.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert mean_as_logits([one, other]).softmax(0)[0].item() == pytest.approx((1 + 0.2689) / 2, abs=1e-3)
    assert ((one + other) / 2).softmax(0)[0].item() > 0.98


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_one_network_stays_as_it_is_and_sure_ones_stay_finite(activation):
    z = draw(0).half()
    assert mean_as_logits([z], activation) is z
    sure = torch.tensor([[300.0], [-300.0]])
    assert mean_as_logits([sure, sure], activation).isfinite().all()


def test_faults():
    with pytest.raises(ValueError, match="no prediction"):
        mean_as_logits([])
    with pytest.raises(ValueError, match="softmax"):
        mean_as_logits([draw(0)], "argmax")
