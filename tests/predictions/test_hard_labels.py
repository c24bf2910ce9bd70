"""Hard labels and the largest component of each class."""

from __future__ import annotations

import math
import threading

import pytest
import torch

import nnunet_ssl.predictions.hard_labels as hard_labels_module
from nnunet_ssl.predictions.hard_labels import (
    hard_labels,
    label_and_confidence,
    largest_components,
    largest_structure,
    start_largest_components,
    sure_labels,
)


def test_classes_and_regions():
    logits = torch.tensor([[[[1.0, -1.0]], [[0.5, 2.0]], [[-3.0, 0.0]]]])
    assert hard_labels(logits).tolist() == [[[[0, 1]]]]
    assert hard_labels(logits, "sigmoid").tolist() == [[[[True, False]], [[True, True]], [[False, False]]]]
    with pytest.raises(ValueError, match="activation"):
        hard_labels(logits, "tanh")


def test_how_probable_a_label_is():
    p = torch.tensor([[[[0.2, 0.5]], [[0.7, 0.1]], [[0.1, 0.4]]]])
    label, confidence = label_and_confidence(p)
    assert label.tolist() == [[[[1, 0]]]] and confidence.flatten().tolist() == pytest.approx([0.7, 0.5])
    label, confidence = label_and_confidence(p[:, :2], "sigmoid")
    assert label.flatten().tolist() == [False, False, True, False]
    assert confidence.flatten().tolist() == pytest.approx([0.8, 0.5, 0.7, 0.9])


def test_largest_component_of_every_class_by_hand():
    labels = torch.tensor([[1, 1, 0, 2, 0], [0, 0, 0, 0, 1], [2, 2, 0, 0, 1], [0, 0, 2, 0, 1]])[None, None]
    # class 1: three voxels at the right win over two; class 2: three joined over a corner win over one
    kept = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [2, 2, 0, 0, 1], [0, 0, 2, 0, 1]])[None, None]
    assert torch.equal(largest_components(labels), kept)
    # faces only: of class 2 the single voxel at the corner goes too
    kept[0, 0, 3, 2] = 0
    assert torch.equal(largest_components(labels, connectivity=1), kept)


def test_samples_regions_and_empty_maps_are_treated_apart():
    regions = torch.zeros(2, 2, 1, 5, dtype=torch.bool)
    regions[0, 0, 0] = torch.tensor([1, 0, 1, 1, 0])
    regions[1, 1, 0] = torch.tensor([1, 1, 0, 1, 0])
    kept = largest_components(regions)
    assert kept.dtype == torch.bool
    assert kept[0, 0, 0].tolist() == [False, False, True, True, False]
    assert kept[1, 1, 0].tolist() == [True, True, False, False, False]
    assert not kept[0, 1].any() and not kept[1, 0].any()


def test_three_dimensions_and_ties():
    labels = torch.zeros(1, 1, 3, 3, 3, dtype=torch.int64)
    labels[0, 0, 0, 0, 0] = labels[0, 0, 1, 1, 1] = 4  # joined over a corner
    labels[0, 0, 2, 2, 0] = 4
    assert int((largest_components(labels) == 4).sum()) == 3  # (2,2,0) touches (1,1,1) over an edge-corner
    kept = largest_components(labels, connectivity=1)
    assert torch.nonzero(kept).tolist() == [[0, 0, 0, 0, 0]]  # three of one voxel: the first
    with pytest.raises(ValueError, match="connectivity"):
        largest_components(labels, connectivity=4)
    with pytest.raises(ValueError, match="one channel"):
        largest_components(labels.expand(1, 2, 3, 3, 3))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 1, 2)], ids=["1d", "2d", "3d"])
def test_labels_are_the_class_of_the_largest_logit(shape):
    logits = torch.zeros(2, 3, *shape)
    logits[0, 2], logits[1, 1] = 1, 5
    label = hard_labels(logits)
    assert label.shape == (2, 1, *shape) and label.dtype == torch.int64
    assert (label[0] == 2).all() and (label[1] == 1).all()


def test_labels_of_regions_are_decisions_per_channel():
    logits = torch.tensor([[[[0.1, -0.1]], [[3.0, 0.0]]]], requires_grad=True)
    label = hard_labels(logits, "sigmoid")
    assert label.tolist() == [[[[True, False]], [[True, False]]]]
    assert not hard_labels(logits).requires_grad


STRUCTURE = [
    [1, 1, 0, 2, 0, 0],
    [0, 2, 0, 0, 0, 3],
    [0, 2, 0, 3, 0, 0],
    [0, 0, 0, 0, 1, 0],
]


def test_structures_keep_what_is_in_the_largest_component_of_class_and_of_all():
    labels = torch.tensor(STRUCTURE)[None, None]
    expected = torch.zeros(4, 6, dtype=torch.long)
    expected[0, :2] = 1
    expected[1:3, 1] = 2
    # both single voxels of class 3 are its largest component or not, but neither is connected to the rest
    assert torch.equal(largest_structure(labels)[0, 0], expected)
    # class 3 has several parts: only 1 and 2 are one organ
    expected[1, 5] = expected[2, 3] = 3
    assert torch.equal(largest_structure(labels, classes=(1, 2))[0, 0], expected)
    assert torch.equal(largest_structure(labels, classes=())[0, 0], labels[0, 0])


def test_structures_in_3d_and_faces_against_corners():
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    labels[0, 0, 0, 0, :3] = 1
    labels[0, 0, 1, 1, 3] = 2
    assert int(largest_structure(labels).sum()) == 3  # the voxel of class 2 touches at a corner only
    assert int(largest_structure(labels, connectivity=3).sum()) == 5


def test_sure_labels_by_hand():
    logits = torch.tensor([[[[math.log(9.0), 0.0]], [[0.0, 0.0]]]])  # 0.9, 0.1 and 0.5, 0.5
    labels, sure = sure_labels(logits, 0.89)
    assert labels.tolist() == [[[[0, 0]]]] and sure.tolist() == [[[[True, False]]]]
    assert not sure_labels(logits, 0.91)[1].any()
    labels, sure = sure_labels(torch.tensor([[[[-math.log(9.0), 0.1]]]]), 0.89, "sigmoid")
    assert labels.tolist() == [[[[False, True]]]] and sure.tolist() == [[[[True, False]]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_largest_components_in_a_thread_are_the_same_and_nobody_waits(dtype, monkeypatch):
    labels = (torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(0)) > 0.6).to(dtype)
    expected, begin, before = largest_components(labels), threading.Event(), labels.clone()

    def waiting(*arguments):
        assert begin.wait(60)
        return largest_components(*arguments)

    monkeypatch.setattr(hard_labels_module, "largest_components", waiting)
    filtered = start_largest_components(labels)  # returns although the work cannot begin
    labels.zero_()  # the labels were copied
    begin.set()
    found = filtered()
    assert found.dtype == dtype and torch.equal(found, expected) and not torch.equal(found, before)


def test_what_fails_in_the_thread_is_raised_where_its_result_is_asked_for():
    filtered = start_largest_components(torch.zeros(1, 2, 3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one channel"):
        filtered()
