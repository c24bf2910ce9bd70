"""Numbers that select pseudo labels, by hand; the golden file has the official ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_ssl.predictions.selection import (
    changed_share,
    class_confidence,
    falling_order,
    foreground_entropy,
    instability,
    largest,
    passes_gate,
    predicted_foreground,
    uncertain_voxels,
)

# four voxels of three classes: 0 surely, 1 surely, 1 barely, 2 half
CLASSES = np.array([[0.96, 0.02, 0.3, 0.25], [0.02, 0.95, 0.6, 0.25], [0.02, 0.03, 0.1, 0.5]])
# three voxels of two regions: the second lies in the first
REGIONS = np.array([[0.98, 0.7, 0.1], [0.6, 0.1, 0.05]])


def test_changed_voxels_are_counted_per_voxel_of_foreground_now():
    assert changed_share(np.array([0, 1, 1, 2]), np.array([1, 1, 2, 2])) == 2 / 4
    assert changed_share(np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0])) == 2 / 1


def test_a_case_that_lost_all_foreground_is_very_unstable_and_never_infinite():
    assert changed_share(np.array([1, 1, 1]), np.array([0, 0, 0])) == 3
    assert changed_share(np.zeros(3, int), np.zeros(3, int)) == 0


def test_voxels_without_a_decision_in_either_round_do_not_count():
    before, now = np.array([1, 3, 1, 0]), np.array([0, 1, 3, 1])
    assert changed_share(before, now, ignore=(3,)) == 2 / 1
    assert changed_share(before, now) == 4 / 3


def test_maps_of_other_shape_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        changed_share(np.zeros((2, 2), int), np.zeros((1, 2), int))


def test_instability_is_the_mean_over_rounds():
    assert instability([0.4, 0.1]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="second round"):
        instability([])


def test_the_largest_come_first_and_of_equals_the_first():
    assert falling_order([1.0, 3.0, 2.0, 3.0]).tolist() == [1, 3, 2, 0]
    assert largest({"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0}, 0.5) == ["b", "c"]
    assert largest({f"{i:04d}": float(i) for i in range(2000)}, 0.038)[-1] == "1924"  # FLARE22 dropped 76 of 2000
    assert largest({}, 0.5) == [] and largest({"a": 1.0}, 0.0) == []
    with pytest.raises(ValueError, match="share"):
        largest({"a": 1.0}, 1.0)


def test_confidence_of_classes():
    found = class_confidence(CLASSES)
    assert found.voxels.tolist() == [2, 1]
    assert found.share.tolist() == [0.5, 0.0]
    np.testing.assert_allclose(found.mean, [(0.95 + 0.6) / 2, 0.5])
    assert class_confidence(CLASSES, threshold=0.4).share.tolist() == [1.0, 1.0]


def test_confidence_of_a_class_that_is_not_predicted_is_zero():
    found = class_confidence(CLASSES[:, :2])
    assert (found.voxels[1], found.share[1], found.mean[1]) == (0, 0, 0)


def test_confidence_of_regions_is_of_each_by_itself():
    found = class_confidence(REGIONS, "sigmoid")
    assert found.voxels.tolist() == [2, 1] and found.share.tolist() == [0.5, 0.0]
    assert predicted_foreground(REGIONS, "sigmoid").tolist() == [[True, True, False], [True, False, False]]


def test_the_gate_rounds_to_four_decimals():
    assert passes_gate(np.array([0.8, 0.79996, 0.79994])).tolist() == [True, True, False]
    assert passes_gate(np.array([0.5]), 0.4).tolist() == [True]


def test_entropy_is_of_the_foreground_alone():
    def entropy(*p):
        return -sum(q * math.log(q) for q in p)

    of_classes = (entropy(0.02, 0.95, 0.03) + entropy(0.3, 0.6, 0.1) + entropy(0.25, 0.25, 0.5)) / 3
    assert foreground_entropy(CLASSES) == pytest.approx(of_classes, abs=1e-6)
    of_regions = (entropy(0.98, 0.02) + entropy(0.6, 0.4) + entropy(0.7, 0.3) + entropy(0.1, 0.9)) / 2
    assert foreground_entropy(REGIONS, "sigmoid") == pytest.approx(of_regions, abs=1e-6)
    assert foreground_entropy(CLASSES[:, :1]) == 5


def test_uncertain_voxels():
    assert uncertain_voxels(CLASSES, 0.7).tolist() == [False, False, True, True]
    assert not uncertain_voxels(CLASSES, 0.0).any()
    # of regions every one has to be certain, in or out
    assert uncertain_voxels(REGIONS, 0.65, "sigmoid").tolist() == [True, False, False]
