"""Means over the cells of a coarser grid."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.patches.coarse_grid import cell_means, halvings, whole_cells


@pytest.mark.parametrize(
    "shape, spacing, limit, factors",
    [
        ((256, 256), (1.5, 1.5), 4096, (4, 4)),
        ((96, 96), (1, 1), 4096, (2, 2)),
        ((64, 64), (1, 1), 4096, (1, 1)),
        ((128, 128, 128), (1, 1, 1), 16 * 32 * 32, (8, 4, 4)),  # 2^21 voxels, 7 halvings
        ((16, 256, 256), (8, 1, 1), 16 * 32 * 32, (1, 8, 8)),  # voxels 8 mm thick are not made thicker
        ((5, 3), (1, 1), 1, (8, 4)),
    ],
)
def test_the_axis_with_the_smallest_cells_is_halved(shape, spacing, limit, factors):
    assert halvings(shape, spacing, limit) == factors


def test_no_cells_at_all_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        halvings((4, 4), (1, 1), 0)


def test_means_by_hand_also_of_cells_that_are_cut():
    values = torch.tensor([[[[1.0, 3.0, 5.0], [5.0, 7.0, 7.0], [0.0, 2.0, 9.0]]]])
    assert cell_means(values, (2, 2))[0, 0].tolist() == [[4, 6], [1, 9]]
    assert cell_means(values, (1, 2))[0, 0].tolist() == [[2, 5], [6, 7], [1, 9]]
    assert cell_means(values, (1, 1)) is values
    assert cell_means(values, (4, 8)).flatten().tolist() == [pytest.approx(39 / 9)]
    volume = torch.arange(8.0).view(1, 1, 2, 2, 2)
    assert cell_means(volume, (2, 1, 4)).flatten().tolist() == [2.5, 4.5]
    with pytest.raises(ValueError, match="one factor per axis"):
        cell_means(values, (2, 2, 2))


def test_means_of_probabilities_are_probabilities_and_every_voxel_has_a_gradient():
    p = torch.randn(2, 4, 5, 7, 3, generator=torch.Generator().manual_seed(0)).softmax(1).requires_grad_()
    means = cell_means(p, (2, 4, 2))
    assert means.shape == (2, 4, 3, 2, 2)
    assert torch.allclose(means.sum(1), torch.ones(2, 3, 2, 2))
    assert torch.autograd.grad(means.sum(), p)[0].min() > 0


def test_a_cell_counts_if_all_of_it_is_in_the_mask():
    mask = torch.ones(1, 1, 4, 3, dtype=torch.bool)
    mask[0, 0, 1, 1] = False
    mask[0, 0, 3, 2] = False
    assert whole_cells(mask, (2, 2))[0, 0].tolist() == [[False, True], [True, False]]
    assert torch.equal(whole_cells(mask, (1, 1)), mask)
