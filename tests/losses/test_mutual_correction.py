"""MCF's losses by hand, and the second architecture."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.mutual_correction import disagreement, mutual_loss, rectification_loss, sharpen
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of


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


@pytest.mark.parametrize("spatial", [(3, 2), (2, 3, 2)])
def test_two_classes_are_the_official_form_and_gradients_are_those_of_the_value(spatial):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 2, *spatial, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.randint(0, 2, (2, 1, *spatial), generator=generator)
    differ = disagreement(first, second)
    foreground = torch.softmax(first, 1)[:, 1:]
    official = ((first.argmax(1) == 1) ^ (second.argmax(1) == 1))[:, None]
    assert torch.equal(differ, official)
    expected = ((foreground - target) ** 2)[official].mean()
    assert torch.isclose(rectification_loss(first, target, differ), expected)
    assert torch.autograd.gradcheck(lambda z: rectification_loss(z, target, differ), first.requires_grad_())


def test_more_classes_by_hand():
    first, second = logits_of([0.5, 0.3, 0.2]), logits_of([0.2, 0.5, 0.3])
    differ = disagreement(first, second)
    error = (0.5**2 + 0.7**2 + 0.2**2) / 3
    assert float(rectification_loss(first, torch.tensor([[[1]]]), differ)) == pytest.approx(error)


def test_regions_disagree_one_by_one():
    first, second = torch.tensor([[[2.0, -1.0]], [[1.0, 1.0]]])[None], torch.tensor([[[2.0, 1.0]], [[-1.0, 1.0]]])[None]
    differ = disagreement(first, second, "sigmoid")
    assert differ.tolist() == [[[[False, True]], [[True, False]]]]
    target = torch.zeros(1, 2, 1, 2, dtype=torch.bool)
    p = torch.sigmoid(first)
    by_hand = (p[0, 0, 0, 1] ** 2 + p[0, 1, 0, 0] ** 2) / 2
    assert torch.isclose(rectification_loss(first, target, differ, "sigmoid"), by_hand)
    mask = torch.tensor([[[[True, False]]]])
    assert disagreement(first, second, "sigmoid", mask).sum() == 1


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


def test_padding_does_not_count_in_the_mutual_loss():
    a, b = logits_of([0.8, 0.2], [0.4, 0.6]), logits_of([0.9, 0.1], [0.4, 0.6])
    mask = torch.tensor([[[True, False]]])
    assert float(mutual_loss(a, b, torch.tensor(False), 1.0, mask=mask)[0]) == pytest.approx(0.01)
    assert sum(map(float, mutual_loss(a, b, torch.tensor(False), 1.0, mask=mask & False))) == 0


@pytest.mark.parametrize("regions", [False, True])
def test_a_step_by_hand(regions, datasets, tmp_path):
    """Each network with its own loss, optimizer and clipping; scores, labels and corrections written out."""
    out, dataset = datasets(regions=regions)
    settings = {"rampup_fraction": 0.0, "consistency_weight": 7.0}
    trainer, other = (
        started(make_trainer("nnUNetTrainerMCF", out, dataset, results=tmp_path / x, **settings)) for x in "ab"
    )
    assert type(trainer.network) is not type(trainer.second.module)
    batch = next(trainer.dataloader_train)
    n, y = len(batch["data"]), batch["target"][0]
    images = torch.cat((batch["data"], batch["unlabeled"]))
    activate = torch.sigmoid if regions else lambda z: torch.softmax(z, 1)
    networks = (other.network, other.second.module)
    scales = [network(images) for network in networks]
    p = [activate(h[0]) for h in scales]
    hard = [q[:n] >= 0.5 if regions else q[:n].argmax(1, keepdim=True) for q in p]
    channels = y.float() if regions else torch.cat([y == c for c in range(p[0].shape[1])], 1).float()
    foreground = slice(0 if regions else 1, None)
    score = []
    for q in p:
        a, b = q[:n, foreground], channels[:, foreground]
        dice = (2 * (a * b).sum((0, 2, 3)) + 1e-5) / ((a * a).sum((0, 2, 3)) + (b * b).sum((0, 2, 3)) + 1e-5)
        score.append(1 - dice.mean().item())
    worse = 1 if score[0] < score[1] else 0
    sharp = activate(10 * scales[1 - worse][0][n:]).detach()
    inside = batch["inside"]
    values = trainer.train_step(copy_batch(batch))
    for i, (network, optimizer) in enumerate(zip(networks, (other.optimizer, other.second.optimizer))):
        error = (p[i][:n] - channels) ** 2
        error = error if regions else error.mean(1, keepdim=True)
        rectification = error[hard[0] != hard[1]].mean()
        mutual = (((p[i][n:] - sharp) ** 2).mean(1, keepdim=True))[inside].mean() if i == worse else torch.zeros(())
        labeled = other.loss([h[:n] for h in scales[i]], batch["target"])
        suffix = "_second" if i else ""
        assert values[f"labeled{suffix}"] == pytest.approx(labeled.item(), rel=1e-5)
        assert values[f"rectification{suffix}"] == pytest.approx(rectification.item(), rel=1e-4)
        assert values[f"mutual{suffix}"] == pytest.approx(mutual.item(), rel=1e-4)
        optimizer.zero_grad()
        (labeled + 0.5 * rectification + 7 * mutual).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    assert largest_difference(weights_of(other.network), weights_of(trainer.network)) < 1e-6
    assert largest_difference(weights_of(other.second.module), weights_of(trainer.second.module)) < 1e-6
