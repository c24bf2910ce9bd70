"""Prototype labels of AC-MT's P-Err, on numbers checked by hand."""

import pytest
import torch

from nnunet_ssl.predictions.prototype_labels import (
    class_prototypes,
    disagreement,
    nearest_prototype,
    pass_statistics,
    prototype_disagreement,
    prototype_distances,
    rectified_labels,
    resized,
)


def test_statistics_of_passes_are_those_of_the_stack():
    logits, features = torch.randn(5, 2, 3, 4, 4), torch.randn(5, 2, 7, 2, 2)
    deviation, mean = pass_statistics(zip(logits, features, strict=True), temperature=2.0)
    assert torch.allclose(deviation, torch.sigmoid(logits / 2).std(0), atol=1e-6)
    assert torch.allclose(mean, features.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="two passes"):
        pass_statistics([(logits[0], features[0])])


def test_uncertain_classes_lose_and_all_uncertain_is_class_0():
    p = torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]).T.reshape(1, 3, 2)
    deviation = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.5, 0.5]]).T.reshape(1, 3, 2)
    assert rectified_labels(p, deviation).tolist() == [[0, 0]]
    assert rectified_labels(p, torch.zeros_like(p)).tolist() == [[1, 1]]


def a_line():
    """Four voxels with features 0, 2 (class 0) and 10, 14 (class 1), each with confidence 0.5."""
    features = torch.tensor([0.0, 2.0, 10.0, 14.0]).reshape(1, 1, 2, 2)
    return features, torch.tensor([0, 0, 1, 1]).reshape(1, 2, 2), torch.full((1, 2, 2, 2), 0.5)


def test_prototypes_distances_and_nearest_by_hand():
    features, labels, p = a_line()
    prototypes = class_prototypes(features, labels, p, eps=0.0)
    assert prototypes.tolist() == [[[1.0], [12.0]]]
    inside = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2)
    assert class_prototypes(features, labels, p, inside, eps=0.0).tolist() == [[[1.0], [10.0]]]
    distances = prototype_distances(features, prototypes)
    assert distances.flatten(2).tolist() == [[[1, 1, 81, 169], [144, 100, 4, 4]]]
    nearest = nearest_prototype(distances)
    assert nearest[:, 1].flatten().tolist() == [False, False, True, True]
    assert not nearest_prototype(torch.ones(1, 2, 3)).any()  # a tie
    assert nearest_prototype(distances, torch.tensor([[True, False]]))[:, 0].all()


def test_disagreement_selects_both_classes_of_a_voxel():
    student = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).T.reshape(1, 3, 2)
    nearest = torch.tensor([[True, False, False], [True, False, False]]).T.reshape(1, 3, 2)
    assert disagreement(student, nearest)[0].T.tolist() == [[False, False, False], [True, False, True]]


@pytest.mark.parametrize("spatial", [(4, 6), (4, 6, 2)])
def test_a_region_is_a_problem_of_two_classes(spatial):
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 2, 1, *spatial)
    features, deviation = torch.randn(2, 5, *(n // 2 for n in spatial)), torch.rand(2, 1, *spatial) / 5
    regions = prototype_disagreement(student, teacher, deviation, features, "sigmoid")
    classes = prototype_disagreement(
        torch.cat((1 - student, student), 1),
        torch.cat((1 - teacher, teacher), 1),
        deviation.expand(-1, 2, *spatial),
        features,
    )
    assert torch.equal(regions, classes[:, 1:])
    assert 0 < regions.float().mean() < 1
    assert resized(features, spatial).shape == (2, 5, *spatial)
