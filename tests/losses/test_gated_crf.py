"""The Gated CRF loss: against the sum over all pairs, by hand, its gradient, masks, windows, memory."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_ssl.losses.gated_crf import GaussianKernel, gated_crf_loss, three_view_gated_crf_loss
from tests.golden.reference.gated_crf import kernel_sum, kernel_window

WIDE = (GaussianKernel(0.7, 2.0, 0.6), GaussianKernel(0.4, 1.5, None))


def example(shape, classes=3, channels=1, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape) + classes)
    p = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype).softmax(1)
    images = torch.rand(batch, channels, *shape, generator=generator, dtype=dtype)
    source, destination = (torch.rand(batch, 1, *shape, generator=generator) > 0.3 for _ in range(2))
    return p, images, source, destination


def all_pairs(p, images, kernels, radius, spacing=None, source=None, destination=None, regions=False):
    """The formula as it stands, with the matrix of all pairs of voxels."""
    shape = images.shape[2:]
    index = torch.tensor(list(itertools.product(*map(range, shape))))
    offset = index[None] - index[:, None]
    in_window = (offset.abs() <= torch.tensor(radius)).all(-1) & (offset != 0).any(-1)
    position = (offset * torch.tensor(spacing or [1.0] * len(shape), dtype=torch.float64)).pow(2).sum(-1)
    total, counted = 0.0, images[:, 0].numel()
    for b in range(len(p)):
        intensity = (images[b].flatten(1)[:, None] - images[b].flatten(1)[:, :, None]).pow(2).sum(0)
        k = torch.zeros_like(intensity)
        for kernel in kernels:
            exponent = -position / (2 * kernel.position**2)
            if kernel.intensity is not None:
                exponent = exponent - intensity / (2 * kernel.intensity**2)
            k += kernel.weight * exponent.exp()
        k = k * in_window
        k = k if source is None else k * source[b].flatten()
        k = k if destination is None else k * destination[b].flatten()[:, None]
        q = p[b].flatten(1)
        agreement = q.T @ q if not regions else (q.T @ q + (1 - q).T @ (1 - q)) / len(q)
        total = total + (k * (1 - agreement)).sum()
    if source is not None or destination is not None:
        counted = (source if destination is None else destination).sum().clamp(min=1)
    return total / counted


def test_two_voxels_by_hand():
    p = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    images = torch.tensor([[[[0.2, 0.5]]]])
    k = math.exp(-1 / 72 - 0.5 * 9)  # one voxel apart, sigma 6; 0.3 apart, tau 0.1
    assert float(gated_crf_loss(p, images)) == pytest.approx(k, rel=1e-5)  # two directions, two voxels
    assert float(gated_crf_loss(p.flip(1).roll(1, 3), images)) == pytest.approx(k, rel=1e-5)
    assert float(gated_crf_loss(torch.ones_like(p) * p[..., :1], images)) == pytest.approx(0, abs=1e-6)
    assert float(gated_crf_loss(p, images, spacing=(1, 12.0))) == pytest.approx(math.exp(-2 - 4.5), rel=1e-5)
    assert float(gated_crf_loss(p, images, [GaussianKernel(3.0, 1.0, None)])) == pytest.approx(3 * math.exp(-0.5))
    only_first = torch.tensor([[[[True, False]]]])
    assert float(gated_crf_loss(p, images, destination=only_first)) == pytest.approx(k, rel=1e-5)
    assert float(gated_crf_loss(p, images, source=only_first, destination=only_first)) == 0
    half = torch.tensor([[[[0.5, 1.0]]]])  # one region: 1 - (0.5 * 1 + 0.5 * 0) = 0.5
    assert float(gated_crf_loss(half, images, activation="sigmoid")) == pytest.approx(0.5 * k, rel=1e-5)


CASES = {
    "2d": ((6, 5), (2, 1), None),
    "2d, window beyond the image": ((3, 4), (4, 6), None),
    "2d, one row": ((1, 7), (2, 2), (3.0, 0.5)),
    "3d, spacing": ((4, 3, 5), (1, 2, 1), (2.5, 1.0, 0.8)),
    "3d, slices": ((3, 4, 5), (0, 2, 2), (5.0, 1.2, 1.0)),
}


@pytest.mark.parametrize("masks", ["none", "source", "destination", "both"])
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_sum_over_all_pairs_with_its_gradient(case, regions, masks):
    shape, radius, spacing = CASES[case]
    p, images, source, destination = example(shape, channels=2)
    p = (p * 0.8).requires_grad_()  # not a distribution: no identity of distributions may be relied upon
    used = {"source": source if masks in ("source", "both") else None}
    used["destination"] = destination if masks in ("destination", "both") else None
    activation = "sigmoid" if regions else "softmax"
    ours = gated_crf_loss(p, images, WIDE, radius, spacing, activation, **used)
    expected = all_pairs(p, images, WIDE, radius, spacing, regions=regions, **used)
    assert torch.allclose(ours, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(loss, p)[0] for loss in (ours, expected)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)
    if masks == "both":
        gated = ~source & ~destination
        assert gradients[0][gated.expand_as(p)].abs().max() == 0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck(activation):
    p, images, source, destination = example((4, 3), classes=2)
    options = {"kernels": WIDE, "radius": 2, "activation": activation, "source": source, "destination": destination}
    assert torch.autograd.gradcheck(lambda q: gated_crf_loss(q, images, **options), p.requires_grad_())
    volume, images, *_ = example((3, 2, 3), classes=2, batch=1)
    assert torch.autograd.gradcheck(
        lambda q: three_view_gated_crf_loss(q, images, 1, kernels=WIDE), volume.requires_grad_()
    )


def test_images_get_no_gradient():
    p, images, *_ = example((4, 4))
    loss = gated_crf_loss(p.requires_grad_(), images.requires_grad_())
    assert torch.autograd.grad(loss, images, allow_unused=True) == (None,)


def test_official_border_adds_a_constant():
    p, images, source, destination = example((5, 4))
    images = images * 0.2  # else the kernel beyond the border is as good as 0
    other = p.roll(1, 1).requires_grad_()
    p.requires_grad_()
    for mask in (None, destination):
        official, clean = (
            [
                gated_crf_loss(q, images, WIDE, 2, (2.0, 1.0), destination=mask, count_outside=outside)
                for q in (p, other)
            ]
            for outside in (True, False)
        )
        constant = official[0] - clean[0]
        assert constant > 0.01 and torch.allclose(official[1] - clean[1], constant)
        assert torch.equal(*(torch.autograd.grad(pair[0], p)[0] for pair in (official, clean)))
    gated = [gated_crf_loss(p, images, WIDE, 2, source=source, count_outside=outside) for outside in (True, False)]
    assert torch.equal(*gated)


@pytest.mark.parametrize("outside", [True, False])
def test_windows_add_up_to_the_sum_and_to_the_loss(outside):
    _, images, *_ = example((4, 3, 2), channels=2)
    for radius in ((1, 0, 2), (2, 1, 1)):
        options = {"kernels": WIDE, "radius": radius, "spacing": (1.0, 2.0, 3.0), "count_outside": outside}
        windows = [kernel_window(images, voxel, **options) for voxel in itertools.product(range(4), range(3), range(2))]
        assert all(w.shape == (2, *(2 * r + 1 for r in radius)) for w in windows)
        assert all(w[(slice(None), *radius)].abs().max() == 0 for w in windows)
        total = torch.stack(windows).sum()
        assert torch.allclose(total, kernel_sum(images, **options))
        # voxels that never agree
        zero = gated_crf_loss(torch.zeros(2, 3, 4, 3, 2, dtype=torch.float64), images, **options)
        assert torch.allclose(total / 48, zero)
    middle = kernel_window(images, None, WIDE, 1, count_outside=outside)
    assert torch.equal(middle, kernel_window(images, (2, 1, 1), WIDE, 1, count_outside=outside))


def test_slices_are_images_of_their_own():
    p, images, source, _ = example((3, 6, 5))
    fold = lambda t: t.transpose(1, 2).flatten(0, 1)  # noqa: E731
    folded = gated_crf_loss(fold(p), fold(images), WIDE, 2, source=fold(source))
    assert torch.allclose(gated_crf_loss(p, images, WIDE, (0, 2, 2), source=source), folded)
    everything = [0.3, 1.0, 2.0]  # the spacing across the slices does not matter
    a, b = (gated_crf_loss(p, images, WIDE, (0, 2, 2), (s, 1.0, 2.0)) for s in everything[:2])
    assert torch.equal(a, b)


def test_three_views_do_not_prefer_an_axis():
    p, images, *_ = example((4, 4, 4))
    views = [gated_crf_loss(p, images, WIDE, r) for r in ((0, 2, 2), (2, 0, 2), (2, 2, 0))]
    loss = three_view_gated_crf_loss(p, images, 2, kernels=WIDE)
    assert torch.allclose(loss, sum(views) / 3)
    order = (0, 1, 4, 2, 3)
    assert torch.allclose(three_view_gated_crf_loss(p.permute(order), images.permute(order), 2, kernels=WIDE), loss)
    with pytest.raises(ValueError, match="volumes"):
        three_view_gated_crf_loss(p[..., 0], images[..., 0])


def test_spacing_in_mm_and_sigma_in_voxels_are_the_same_scale():
    p, images, *_ = example((5, 5))
    in_mm = gated_crf_loss(p, images, [GaussianKernel(1.0, 9.0, 0.1)], 2, (1.5, 1.5))
    assert torch.allclose(in_mm, gated_crf_loss(p, images, [GaussianKernel(1.0, 6.0, 0.1)], 2))
    # coarse voxels are farther apart: less is asked of them
    assert gated_crf_loss(p, images, radius=2, spacing=(12.0, 1.0)) < gated_crf_loss(p, images, radius=2)


def test_one_class_everywhere_costs_nothing_and_a_border_along_an_edge_less_than_across():
    images = torch.zeros(1, 1, 8, 8)
    images[..., 4:] = 1.0
    along, across = torch.zeros(2, 1, 2, 8, 8)
    along[:, 0, :, :4], along[:, 1, :, 4:] = 1, 1
    across[:, 0, :4], across[:, 1, 4:] = 1, 1
    same = torch.zeros_like(along)
    same[:, 0] = 1
    losses = [float(gated_crf_loss(p, images)) for p in (same, along, across)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[1] == pytest.approx(0, abs=1e-5)
    assert losses[2] > 1


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_no_tensor_is_larger_than_the_padded_probabilities_and_mask_and_one_is_kept_for_backward():
    p, images, source, _ = example((20, 20), classes=4, dtype=torch.float32)
    p.requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        gated_crf_loss(p, images, radius=5, source=source, destination=source).backward()
    batch, classes, *shape = p.shape
    assert largest.elements == batch * (classes + 1) * math.prod(n + 5 for n in shape)  # once, whatever the window
    assert sum(kept) <= p.numel() + 1  # + 1: the number of voxels that count


def test_half_precision_and_autocast_do_not_change_the_result():
    p, images, *_ = example((9, 9), dtype=torch.float32)
    expected = gated_crf_loss(p, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gated_crf_loss(p, images), expected)
    low = gated_crf_loss(p.half(), images.half())
    assert low.dtype == torch.float32 and torch.allclose(low, expected, rtol=1e-2)


def test_nothing_counted_is_zero_with_a_gradient_of_zero():
    p, images, *_ = example((4, 4))
    p.requires_grad_()
    nothing = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    loss = gated_crf_loss(p, images, source=nothing, destination=nothing)
    assert loss == 0 and torch.autograd.grad(loss, p)[0].abs().max() == 0


def test_wrong_arguments():
    p, images, source, _ = example((4, 4))
    with pytest.raises(ValueError, match="same batch and grid"):
        gated_crf_loss(p[..., :3], images)
    with pytest.raises(ValueError, match=r"source must be bool of shape \(2, 1, 4, 4\)"):
        gated_crf_loss(p, images, source=source.float())
    with pytest.raises(ValueError, match="destination must be bool"):
        gated_crf_loss(p, images, destination=source[:1])
    with pytest.raises(ValueError, match="one number per axis"):
        gated_crf_loss(p, images, radius=(1, 1, 1))
    with pytest.raises(ValueError, match="not 0 along all axes"):
        gated_crf_loss(p, images, radius=0)
    with pytest.raises(ValueError, match="activation"):
        gated_crf_loss(p, images, activation="relu")
