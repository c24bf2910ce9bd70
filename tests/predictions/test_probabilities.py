"""Tests of `nnunet_ssl.predictions.probabilities`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.predictions.probabilities import probabilities
from tests.golden.reference.consistency import softmax_dice
from tests.golden.reference.supervised import ce_dice_loss, cross_entropy, squared_dice_loss


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits `(1, C, 1, 1)` of one voxel with these class probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1)


def test_probabilities_sum_to_one_with_softmax_and_are_per_channel_with_sigmoid():
    logits = draw(2, 3, 4, 5, 6)
    torch.testing.assert_close(probabilities(logits, "softmax").sum(1), torch.ones(2, 4, 5, 6))
    torch.testing.assert_close(probabilities(logits, "sigmoid"), 1 / (1 + (-logits).exp()))
    with pytest.raises(ValueError, match=r"'softmax', 'sigmoid'.*'relu'"):
        probabilities(logits, "relu")


def test_dice_between_predictions_by_hand():
    loss = softmax_dice(logits_of(0.5, 0.5), logits_of(0.9, 0.1))
    expected = ((1 - (2 * 0.45 + 1e-5) / (1.4 + 1e-5)) + (1 - (2 * 0.05 + 1e-5) / (0.6 + 1e-5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 6, 7), (2, 3, 4, 5, 6)])
def test_squared_dice_equals_monai(shape):
    monai_losses = pytest.importorskip("monai.losses")
    logits = draw(*shape)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(1))
    monai = monai_losses.DiceLoss(
        to_onehot_y=True, softmax=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = squared_dice_loss(probabilities(logits), target)
    torch.testing.assert_close(ours, monai(logits, target.unsqueeze(1)))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.float32, torch.uint8])
def test_targets_of_any_number_type_with_or_without_a_channel_give_the_same(dtype):
    logits = draw(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    expected = 0.5 * (cross_entropy(logits, target) + squared_dice_loss(probabilities(logits), target))
    assert torch.equal(ce_dice_loss(logits, target.to(dtype)), expected)
    assert torch.equal(ce_dice_loss(logits, target.to(dtype).unsqueeze(1)), expected)
