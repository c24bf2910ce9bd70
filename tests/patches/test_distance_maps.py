"""Tests of `nnunet_ssl.patches.distance_maps`."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from nnunet_ssl.patches.distance_maps import LevelSetTargets, has_boundary, signed_distance_map, signed_distance_maps


def test_map_of_a_bar_by_hand():
    # outside at distance 1, 2 of at most 2; the ends of the bar are boundary, its middle is at distance 2 of at most 2
    mask = np.array([[0, 0, 1, 1, 1, 0, 0]])
    assert signed_distance_map(mask).tolist() == [[1, 0.5, 0, -1, 0, 0.5, 1]]
    assert signed_distance_map(mask[0][:, None, None])[:, 0, 0].tolist() == [1, 0.5, 0, -1, 0, 0.5, 1]


def test_the_border_of_the_patch_is_no_boundary():
    assert signed_distance_map(np.array([[1, 1, 1, 0, 0]])).tolist() == [pytest.approx([-1, -2 / 3, 0, 0.5, 1])]


def test_a_diagonal_neighbor_outside_is_no_boundary():
    mask = np.ones((3, 3))
    mask[0, 0] = 0
    phi = signed_distance_map(mask)
    assert phi[0, 1] == phi[1, 0] == 0 and phi[0, 0] == 1
    assert phi[1, 1] == pytest.approx(-math.sqrt(2) / math.sqrt(8))


def test_absent_and_full_objects_have_a_map_of_zeros_and_no_boundary():
    masks = torch.zeros(1, 3, 4, 5)
    masks[:, 1] = 1
    masks[:, 2, 1, 1] = 1
    maps = signed_distance_maps(masks)
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()
    assert maps[:, :2].abs().max() == 0
    assert has_boundary(maps).flatten().tolist() == [False, False, True]
    assert has_boundary(maps).shape == (1, 3, 1, 1)


def test_spacing_stretches_distances():
    mask = np.zeros((3, 3))
    mask[0, 0] = 1
    phi = signed_distance_map(mask, spacing=(1, 3))
    assert phi[2, 0] / phi[0, 2] == pytest.approx(2 / 6)


@pytest.mark.parametrize("spatial", [(6, 5), (6, 5, 4)])
def test_targets_of_labels_of_regions_and_with_ignored_voxels(spatial):
    target = torch.randint(0, 4, (2, 1, *spatial), generator=torch.Generator().manual_seed(0)).short()
    target[1][target[1] == 3] = 0  # the ignore label, in the first sample alone
    make = pickle.loads(pickle.dumps(LevelSetTargets(2, regions=False, ignore_label=3)))  # the workers get a copy
    maps = make(target)["level_set"]
    assert maps.shape == (2, 2, *spatial)
    for k in range(2):
        np.testing.assert_array_equal(maps[1, k], signed_distance_map(target[1, 0] == k + 1))
    assert has_boundary(maps).flatten(1).tolist() == [[False, False], [True, True]]
    regions = torch.cat((target > 0, target == 2, target == 3), dim=1)  # the last one says what is ignored
    maps = LevelSetTargets(2, regions=True)(regions)["level_set"]
    assert maps.shape == (2, 2, *spatial)
    np.testing.assert_array_equal(maps[1, 0], signed_distance_map(target[1, 0] > 0))
    assert has_boundary(maps).flatten(1).tolist() == [[False, False], [True, True]]
    for regions_too, whole in ((False, target), (True, regions[:, :2])):  # without an ignore label
        assert has_boundary(LevelSetTargets(2, regions_too)(whole)["level_set"]).all()
