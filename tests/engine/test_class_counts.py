"""What a network has learned of each class."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.engine.class_counts import ClassCounts, is_competent


def logits_of(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels[:, 0], classes).movedim(-1, 1).float()


def test_f1_by_hand_with_ignored_voxels_and_classes_that_are_not_annotated():
    target = torch.tensor([[[[1, 1, 2, 0]]], [[[1, 0, 0, 2]]]])
    predicted = torch.tensor([[[[1, 2, 2, 1]]], [[[0, 0, 1, 2]]]])
    counts = ClassCounts(3, horizon=10)
    counts(logits_of(predicted, 4), target, None, None)
    # class 1: tp 1, fp 2, fn 2; class 2: tp 2, fp 1, fn 0; class 3 nowhere
    assert counts.f1()[:2] == pytest.approx([2 / 6, 4 / 5]) and math.isnan(counts.f1()[2])

    counts = ClassCounts(3, horizon=10)
    mask = torch.tensor([[[[True, True, True, False]]], [[[True] * 4]]])
    annotated = torch.tensor([[True, False, True], [False, True, True]])
    counts(logits_of(predicted, 4), target, mask, annotated)
    # class 1 in the first patch alone, its last voxel ignored: tp 1, fn 1; class 2 in the second alone: tp 1
    assert counts.f1()[:2] == pytest.approx([2 / 3, 1])


def test_regions_are_counted_as_they_are():
    logits = torch.tensor([[[[3.0, -3.0]], [[3.0, 3.0]]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    counts = ClassCounts(2, horizon=10)
    counts(logits, target, None, None, "sigmoid")
    assert counts.f1() == pytest.approx([1, 2 / 3])


def test_old_steps_fade_and_the_counts_are_in_checkpoints():
    right, wrong = torch.ones(1, 1, 1, 4, dtype=torch.long), torch.zeros(1, 1, 1, 4, dtype=torch.long)
    counts = ClassCounts(1, horizon=2)
    counts(logits_of(wrong, 2), right, None, None)
    for _ in range(6):
        counts(logits_of(right, 2), right, None, None)
    weight = math.exp(-6 / 2)
    hits = sum(math.exp(-i / 2) for i in range(6))
    assert counts.f1() == pytest.approx([2 * hits / (2 * hits + weight)])
    other = ClassCounts(1, horizon=2)
    other.load_state_dict(counts.state_dict())
    assert other.f1() == counts.f1()


def test_every_class_that_occurs_must_be_found():
    assert is_competent([0.9, 0.7], 0.7) and not is_competent([0.9, 0.69], 0.7)
    assert is_competent([0.9, math.nan], 0.7) and not is_competent([math.nan], 0.7)
