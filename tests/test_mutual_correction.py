"""MCF's losses by hand, and the second architecture."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.counterpart import counterpart_architecture
from nnunet_ssl.losses.mutual_correction import disagreement, mutual_loss, rectification_loss, sharpen


def logits_of(*probabilities):
    """One sample `(1, C, voxels)` from the class probabilities of each voxel."""
    return torch.tensor(probabilities).log().T[None]


def test_disagreement_and_rectification_by_hand():
    first, second = logits_of([0.8, 0.2], [0.4, 0.6]), logits_of([0.9, 0.1], [0.7, 0.3])
    target = torch.tensor([[[0, 0]]])
    differ = disagreement(first, second)
    assert differ.tolist() == [[[False, True]]]
    assert float(rectification_loss(first, target, differ)) == pytest.approx(0.36)
    assert float(rectification_loss(second, target, differ)) == pytest.approx(0.09)
    assert not disagreement(first, second, mask=torch.tensor([[[True, False]]])).any()
    agreed = first.clone().requires_grad_()
    loss = rectification_loss(agreed, target, differ & False)
    loss.backward()
    assert float(loss.detach()) == 0 and agreed.grad.abs().max() == 0
    with pytest.raises(ValueError, match="one shape"):
        disagreement(first, second[..., :1])


def test_sharpening_is_a_power_and_does_not_underflow():
    p = torch.tensor([[[0.2], [0.3], [0.5]]])
    assert torch.allclose(sharpen(p.log(), 0.5), p**2 / (p**2).sum(1, keepdim=True))
    assert sharpen(torch.tensor([[[60.0], [0.0]]]).half(), 0.1).isfinite().all()
    with pytest.raises(ValueError, match="temperature"):
        sharpen(p, 0)


@pytest.mark.parametrize("first_is_better", [True, False])
def test_only_the_worse_network_learns(first_is_better):
    a, b = (logits_of(p).requires_grad_() for p in ([0.8, 0.2], [0.4, 0.6]))
    losses = mutual_loss(a, b, torch.tensor(first_is_better), 1.0)
    expected = (0.8 - 0.4) ** 2
    values = [float(x.detach()) for x in losses]
    assert values == pytest.approx([0.0, expected] if first_is_better else [expected, 0.0])
    sum(losses).backward()
    moved = [a.grad.abs().max() > 0, b.grad.abs().max() > 0]
    assert moved == [not first_is_better, first_is_better]


def test_the_counterpart_of_both_architectures():
    plain = {"n_stages": 3, "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "nonlin_first": False}
    name, kwargs = counterpart_architecture("dynamic_network_architectures.architectures.unet.PlainConvUNet", plain)
    assert name.endswith("unet.ResidualEncoderUNet")
    assert kwargs == {"n_stages": 3, "n_blocks_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}
    name, back = counterpart_architecture(name, kwargs)
    assert name.endswith("unet.PlainConvUNet") and back["n_conv_per_stage"] == [2, 2, 2]
    with pytest.raises(NotImplementedError, match="VNet"):
        counterpart_architecture("somewhere.VNet", plain)
