"""Primus as a second network: shapes that its tokens do not divide, and two axes."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.networks import transformer
from nnunet_ssl.networks.transformer import Transformer, padded_shape


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(transformer.SIZES, "S", (36, 2, 6))


@pytest.mark.parametrize("shape", [(16, 24), (20, 17), (8, 16, 16), (12, 9, 16)])
def test_logits_have_the_shape_of_the_image(shape, small):
    torch.manual_seed(0)
    network = Transformer(2, 3, shape, "S", drop_path=0.0)
    logits = network(torch.randn(2, 2, *shape))
    assert logits.shape == (2, 3, *shape)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_an_image_of_two_axes_depends_on_all_of_its_tokens(small):
    torch.manual_seed(0)
    network = Transformer(1, 2, (16, 16), "S", drop_path=0.0).eval()
    image = torch.randn(1, 1, 16, 16)
    changed = image.clone()
    changed[..., 8:, 8:] += 1
    assert (network(image) - network(changed))[..., :8, :8].abs().max() > 0


def test_padded_shape():
    assert padded_shape((8, 9, 16)) == [8, 16, 16]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"\['B', 'M', 'S'\], got 'XL'"):
        Transformer(1, 2, (16, 16), "XL")
