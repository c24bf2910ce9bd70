"""The dense CRF energy and loss: against the matrix of all pairs, by hand, in blocks, and by the permutohedral lattice."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import nnunet_ssl.losses.dense_crf as dense_crf
from nnunet_ssl.losses.dense_crf import bilateral_filter, dense_crf_loss
from tests.golden.reference.dense_crf import dense_crf_energy, rloss_downscale


def example(shape, classes=3, channels=2, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape) + classes)
    p = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype).softmax(1)
    images = torch.rand(batch, channels, *shape, generator=generator, dtype=dtype)
    return p, images, torch.rand(batch, 1, *shape, generator=generator) > 0.3


def affinities(images, sigma_position, sigma_intensity, spacing=None):
    """W of all pairs, `(B, n, n)`."""
    shape = images.shape[2:]
    index = torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float64)
    position = index * torch.tensor(spacing or [1.0] * len(shape), dtype=torch.float64) / sigma_position
    features = [torch.cat((position, image.flatten(1).T / sigma_intensity), 1) for image in images]
    return torch.stack([torch.exp(-0.5 * (f[:, None] - f[None]).pow(2).sum(-1)) for f in features])


def test_two_voxels_by_hand():
    p = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    images = torch.tensor([[[[30.0, 60.0]]]])
    w = math.exp(-0.5 * (2.5 / 5) ** 2 - 0.5 * 2**2)
    options = {"sigma_position": 5.0, "sigma_intensity": 15.0, "spacing": (1.0, 2.5)}
    # pairs (1, 1), (2, 2) with W = 1 agree, (1, 2) and (2, 1) do not
    assert float(dense_crf_energy(p, images, **options)) == pytest.approx(-2, rel=1e-6)
    assert float(dense_crf_loss(p, images, **options)) == pytest.approx(2 * w / (2 + 2 * w), rel=1e-6)
    filtered = bilateral_filter(p, images, **options)[0, 0, 0].tolist()
    assert filtered == pytest.approx([1.0, w], rel=1e-6)
    same = torch.ones_like(p) * p[..., :1]
    assert float(dense_crf_energy(same, images, **options)) == pytest.approx(-2 - 2 * w, rel=1e-6)
    assert float(dense_crf_loss(same, images, **options)) == pytest.approx(0, abs=1e-6)
    half = torch.full((1, 1, 1, 2), 0.5)  # one region, undecided: 1 - (0.25 + 0.25)
    assert float(dense_crf_loss(half, images, activation="sigmoid", **options)) == pytest.approx(0.5, rel=1e-6)
    first = torch.tensor([[[[True, False]]]])
    assert float(dense_crf_loss(p, images, roi=first, **options)) == pytest.approx(0, abs=1e-6)
    assert float(dense_crf_energy(p, images, roi=first, **options)) == pytest.approx(-1, rel=1e-6)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("with_roi", [False, True])
@pytest.mark.parametrize("shape, spacing", [((5, 6), None), ((3, 4, 2), (2.5, 1.0, 0.5))])
@pytest.mark.parametrize("block", [None, 100, 1])
def test_it_is_the_sum_over_all_pairs_with_its_gradient(shape, spacing, with_roi, regions, block, monkeypatch):
    if block:
        monkeypatch.setattr(dense_crf, "BLOCK_ELEMENTS", block)
    p, images, roi = example(shape)
    p = (p * 0.9).requires_grad_()
    roi = roi if with_roi else None
    options = {"sigma_position": 3.0, "sigma_intensity": 0.4, "spacing": spacing}
    w = affinities(images, **options)
    assert torch.allclose(
        bilateral_filter(p, images, **options).flatten(2), torch.einsum("bij,bcj->bci", w, p.flatten(2))
    )
    if roi is not None:
        w = w * roi.flatten(2) * roi.flatten(2).mT
    q = p.flatten(2)
    agreement = q.mT @ q if not regions else (q.mT @ q + (1 - q).mT @ (1 - q)) / q.shape[1]
    expected_energy = -(w * agreement).sum() / len(p)
    expected_loss = ((w * (1 - agreement)).sum((1, 2)) / w.sum((1, 2))).mean()
    options |= {"roi": roi, "activation": "sigmoid" if regions else "softmax"}
    for ours, expected in (
        (dense_crf_energy(p, images, **options), expected_energy),
        (dense_crf_loss(p, images, **options), expected_loss),
    ):
        assert torch.allclose(ours, expected, rtol=1e-12)
        gradients = [torch.autograd.grad(value, p, retain_graph=True)[0] for value in (ours, expected)]
        assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)
        if with_roi:
            assert gradients[0][~roi.expand_as(p)].abs().max() == 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape, spacing", [((40, 31), None), ((11, 8, 13), (2.5, 1.0, 0.5)), ((1, 1100), (1.0, 2.0))])
def test_the_sum_over_levels_of_intensity_is_that_over_pairs(shape, spacing, dtype, tolerance, monkeypatch):
    p, images, _ = example(shape, channels=1, dtype=torch.float64)
    images[0, ..., 0], images[0, ..., -1] = -0.5, 1.5  # the ends of the range
    options = {"sigma_position": 30.0, "sigma_intensity": 0.1, "spacing": spacing}
    expected = bilateral_filter(p, images, **options)
    monkeypatch.setattr(dense_crf, "_exact_filter", None)  # the pairs cannot be asked
    found = bilateral_filter(p.to(dtype), images.to(dtype), **options, intensity_range=(-0.5, 1.5))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_levels_are_for_one_channel_and_many_voxels(monkeypatch):
    monkeypatch.setattr(dense_crf, "_levels_filter", None)
    options = {"sigma_position": 3.0, "sigma_intensity": 0.4, "intensity_range": (0.0, 1.0)}
    for shape, channels in (((5, 6), 1), ((40, 31), 2)):
        p, images, _ = example(shape, channels=channels)
        filtered = bilateral_filter(p, images, **options).flatten(2)
        w = affinities(images, 3.0, 0.4)
        assert torch.allclose(filtered, torch.einsum("bij,bcj->bci", w, p.flatten(2)))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("function", [dense_crf_energy, dense_crf_loss])
def test_gradcheck(function, activation):
    p, images, roi = example((3, 2), classes=2)
    assert torch.autograd.gradcheck(
        lambda q: function(q, images, 3.0, 0.4, None, roi, activation), p.requires_grad_(), check_undefined_grad=False
    )


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_the_loss_lies_between_0_and_1_and_does_not_depend_on_the_batch(method):
    p, images, roi = example((7, 6), batch=3)
    hard = torch.zeros_like(p).scatter_(1, p.argmax(1, keepdim=True), 1)
    options = {"sigma_position": 4.0, "sigma_intensity": 0.3, "method": method}
    losses = [float(dense_crf_loss(q, images, roi=roi, **options)) for q in (hard, p, torch.zeros_like(p))]
    assert 0 < losses[0] < 1 and 0 < losses[1] < 1 and losses[2] == pytest.approx(1)
    single = [dense_crf_loss(p[i : i + 1], images[i : i + 1], roi=roi[i : i + 1], **options) for i in range(3)]
    assert torch.allclose(torch.stack(single).mean(), dense_crf_loss(p, images, roi=roi, **options))
    roi[1] = False  # an image that is nothing but padding adds nothing
    p.requires_grad_()
    loss = dense_crf_loss(p, images, roi=roi, **options)
    assert torch.allclose(loss, (single[0] + single[2]) / 3)
    gradient = torch.autograd.grad(loss, p)[0]
    assert gradient[1].abs().max() == 0 and gradient[0].abs().max() > 0


def test_images_get_no_gradient():
    p, images, _ = example((4, 4))
    loss = dense_crf_loss(p.requires_grad_(), images.requires_grad_())
    assert torch.autograd.grad(loss, images, allow_unused=True) == (None,)


def test_autocast_does_not_change_the_result_and_the_type_of_the_sums_can_be_chosen():
    p, images, _ = example((9, 9), dtype=torch.float32)
    options = {"sigma_position": 4.0, "sigma_intensity": 0.3}
    expected = dense_crf_loss(p, images, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dense_crf_loss(p, images, **options), expected)
    assert dense_crf_loss(p.half(), images.half(), **options).dtype == torch.float32
    energy = dense_crf_energy(p, images, dtype=torch.float64, **options)
    assert energy.dtype == torch.float64
    assert torch.allclose(energy.float(), dense_crf_energy(p, images, **options))


def test_official_smaller_grid():
    p = torch.arange(16.0).view(1, 1, 4, 4)
    roi = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    roi[..., 2, :] = False
    small, images, mask = rloss_downscale(p, p, roi, 0.5)
    assert small[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]  # means of 2 x 2 voxels
    assert images[0, 0].tolist() == [[0, 2], [8, 10]]  # the first of them
    assert mask[0, 0].tolist() == [[True, True], [False, False]] and mask.dtype == torch.bool


def test_wrong_arguments():
    p, images, roi = example((4, 4))
    with pytest.raises(ValueError, match="same batch and grid"):
        dense_crf_loss(p[..., :3], images)
    with pytest.raises(ValueError, match=r"roi must be bool of shape \(2, 1, 4, 4\)"):
        dense_crf_energy(p, images, roi=roi.float())
    with pytest.raises(ValueError, match="method must be one of"):
        dense_crf_loss(p, images, method="fast")
    with pytest.raises(ValueError, match="one number per axis"):
        dense_crf_loss(p, images, spacing=(1.0,))
    with pytest.raises(ValueError, match="activation"):
        dense_crf_loss(p, images, activation="relu")
