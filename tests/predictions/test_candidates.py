"""Tests of `nnunet_ssl.predictions.candidates`."""

from __future__ import annotations

import torch

from nnunet_ssl.predictions.candidates import annotation_matrix, candidate_pseudo_labels, candidate_sets

CLASSES = 3


def matrix(*sets):
    return annotation_matrix(sets, CLASSES)


def test_background_is_always_a_candidate():
    assert candidate_sets(matrix([1, 2, 3], [], [2])).tolist() == [
        [True, False, False, False],
        [True, True, True, True],
        [True, True, False, True],
    ]


def test_pseudo_labels_choose_among_what_a_zero_can_mean():
    p = torch.tensor([[0.05, 0.90, 0.05], [0.02, 0.50, 0.48], [0.30, 0.05, 0.65]]).T[None, :, None]  # (1, 3, 1, voxels)
    found = candidate_pseudo_labels(torch.log(p), annotation_matrix([[1]], 2), 0.9)
    # among {0, 2}: 0.05 against 0.05; 0.02 against 0.48 (96 %); 0.3 against 0.65 (68 %)
    assert found.flatten().tolist() == [-1, 2, -1]
    assert candidate_pseudo_labels(torch.log(p), annotation_matrix([[1]], 2), 0.5).flatten().tolist() == [0, 2, 2]
    assert candidate_pseudo_labels(torch.log(p), annotation_matrix([[1, 2]], 2), 0.9).flatten().tolist() == [0, 0, 0]
