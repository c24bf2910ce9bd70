"""Two teachers: their mean, the student's say, and their turns."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.predictions.teacher_pair import (
    Alternation,
    compromise,
    entropy_in_bits,
    entropy_weighted_mean,
)


def voxel(*p: float) -> torch.Tensor:
    return torch.tensor(p).view(1, -1, 1, 1)


def test_the_surer_teacher_counts_more():
    first, second = voxel(0.5, 0.5), voxel(0.0, 1.0)
    assert entropy_in_bits(first).item() == pytest.approx(1, abs=1e-6) and entropy_in_bits(
        second
    ).item() == pytest.approx(0)
    a = math.exp(-1) / (math.exp(-1) + 1)
    mean = entropy_weighted_mean(first, second)
    assert mean.flatten().tolist() == pytest.approx([a * 0.5, a * 0.5 + 1 - a], rel=1e-5)


def test_regions_are_weighed_one_by_one():
    first, second = voxel(0.5, 0.9), voxel(1.0, 0.9)
    a = math.exp(-1) / (math.exp(-1) + 1)
    mean = entropy_weighted_mean(first, second, "sigmoid").flatten().tolist()
    assert mean == pytest.approx([a * 0.5 + 1 - a, 0.9], rel=1e-5)


def test_the_student_decides_where_teachers_disagree_and_it_is_surer_of_another_class():
    label, confidence = torch.tensor([1, 1, 1, 1]), torch.tensor([0.6, 0.6, 0.6, 0.6])
    own, own_confidence = torch.tensor([2, 2, 2, 1]), torch.tensor([0.9, 0.9, 0.5, 0.9])
    conflict = torch.tensor([True, False, True, True])
    labels, confidences = compromise(label, confidence, own, own_confidence, conflict)
    assert labels.tolist() == [2, 1, 1, 1]
    assert confidences.tolist() == pytest.approx([0.9, 0.6, 0.6, 0.6])


def test_turns_and_their_state():
    lengths = iter([2, 1, 3, 100])
    turns, seen = Alternation(lambda: next(lengths)), []
    for _ in range(8):
        seen.append(turns.first)
        turns.step()
    assert seen == [True, True, False, True, True, True, False, False]
    other = Alternation(lambda: 1)
    other.load_state_dict(turns.state_dict())
    assert not other.first and other.state_dict() == {"first": False, "done": 2, "length": 100}
