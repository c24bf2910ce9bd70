"""Thresholds of confidence by label: classes, and both sides of regions."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.predictions.label_confidence import (
    above_thresholds,
    confidence_sums,
    number_of_labels,
    thresholds_of,
)


def test_the_confidence_is_summed_over_voxels_inside_with_the_label():
    labels = torch.tensor([[[[0, 0, 1, 1]]], [[[0, 1, 1, 0]]]])
    confidence = torch.tensor([[[[0.9, 0.7, 0.6, 0.5]]], [[[0.8, 0.7, 0.1, 0.1]]]])
    inside = torch.tensor([[[[True] * 4]], [[[True, True, False, False]]]])
    sums = confidence_sums(labels, confidence, inside, number_of_labels(3))
    means = sums[0] / sums[1]
    assert means[:2].tolist() == pytest.approx([0.8, 0.6]) and math.isnan(means[2])


def test_regions_have_two_labels_each():
    labels = torch.tensor([[[[True, False, False]], [[True, True, False]]]])
    confidence = torch.tensor([[[[0.6, 0.9, 0.7]], [[0.6, 0.8, 0.9]]]])
    inside = torch.tensor([[[[True, True, True]]]])
    sums = confidence_sums(labels, confidence, inside, number_of_labels(2, "sigmoid"), "sigmoid")
    means = sums[0] / sums[1]
    assert means.tolist() == pytest.approx([0.8, 0.9, 0.6, 0.7])
    thresholds = thresholds_of(means, 0.9)
    assert thresholds.tolist() == pytest.approx([0.8, 0.9, 0.6, 0.7])
    confidence = torch.tensor([[[[0.59, 0.81, 0.79]], [[0.71, 0.69, 0.91]]]])
    sure = above_thresholds(labels, confidence, thresholds, "sigmoid")
    assert sure.tolist() == [[[[False, True, False]], [[True, False, True]]]]


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(0.9, [0.9, 0.675, 0.5]), (0.6, [0.6, 0.5, 0.5]), (0.3, [0.3, 0.3, 0.3]), (0.0, [0.0] * 3)],
)
def test_the_surest_label_has_the_highest_threshold_and_none_is_below_a_half(highest, expected):
    assert thresholds_of(torch.tensor([0.8, 0.6, 0.1]), highest).tolist() == pytest.approx(expected)


def test_a_voxel_has_the_threshold_of_its_label():
    labels, thresholds = torch.tensor([[[[0, 1, 2, 1]]]]), torch.tensor([0.9, 0.7, 0.5])
    sure = above_thresholds(labels, torch.tensor([[[[0.89, 0.7, 0.51, 0.69]]]]), thresholds)
    assert sure.tolist() == [[[[False, True, True, False]]]]


@pytest.mark.parametrize("spatial", [(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def test_equal_confidence_of_all_labels_is_one_threshold(spatial):
    labels = torch.randint(0, 3, (2, 1, *spatial), generator=torch.Generator().manual_seed(0))
    confidence = torch.rand((2, 1, *spatial), generator=torch.Generator().manual_seed(1))
    sure = above_thresholds(labels, confidence, thresholds_of(torch.full((3,), 0.7), 0.9))
    assert torch.equal(sure, confidence >= 0.9)
