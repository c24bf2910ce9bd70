"""Tests of `nnunet_ssl.losses.contour`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.contour import contour_length, soft_contour
from nnunet_ssl.patches.slices import fold_slices


def test_contour_of_a_square_by_hand():
    foreground = torch.zeros(1, 1, 9, 9)
    foreground[..., 2:7, 2:7] = 1  # eroded: 3 x 3, dilated again: 5 x 5
    contour = soft_contour(foreground)[0, 0]
    expected = foreground[0, 0].clone()
    expected[3:6, 3:6] = 0
    assert torch.equal(contour, expected)
    p = torch.cat((1 - foreground, foreground), 1)
    assert float(contour_length(p)) == pytest.approx(16 / 81)
    outside = torch.zeros(9, 9)  # background, eroded by one: a ring of one voxel that dilation widens to two
    outside[1:8, 1:8] = 1
    outside[2:7, 2:7] = 0
    assert float(contour_length(p, background=True)) == pytest.approx((16 + outside.sum()) / 2 / 81)
    assert float(contour_length(foreground, "sigmoid")) == pytest.approx(16 / 81)


def test_contour_of_a_cube_and_of_its_slices():
    cube = torch.zeros(1, 1, 7, 7, 7)
    cube[..., 2:5, 2:5, 2:5] = 1
    assert float(contour_length(cube, "sigmoid")) == pytest.approx(26 / 343)
    assert float(contour_length(fold_slices(cube), "sigmoid")) == pytest.approx(3 * 8 / 343)


def test_an_object_cut_by_padding_has_no_contour_there():
    p = torch.zeros(1, 1, 6, 8)
    p[..., :5] = 1
    mask = torch.ones(1, 1, 6, 8, dtype=torch.bool)
    mask[..., 5:] = False  # the object fills all that is counted; beyond it is padding
    assert float(contour_length(p, "sigmoid")) > 0
    assert float(contour_length(p, "sigmoid", mask)) == 0
