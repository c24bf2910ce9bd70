"""Suspected label errors, on samples counted by hand."""

import pytest
import torch

from nnunet_ssl.predictions.confident_learning import (
    RULES,
    _round_rows,
    confident_joint,
    label_issues,
    voxel_label_issues,
)

# means of p_0 over label 0: (0.9 + 0.8 + 0.1) / 3 = 0.6; of p_1 over label 1: (0.9 + 0.7 + 0.5) / 3 = 0.7
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
P = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.3, 0.7], [0.5, 0.5]])


def test_joint_by_hand():
    # label 0: two confident in 0, one in 1; label 1: two confident in 1 (0.7 reaches its mean), the last in none; scaled to 3
    assert confident_joint(LABELS, P).tolist() == [[2, 1], [0, 3]]


@pytest.mark.parametrize("rule", RULES)
def test_the_one_contradicted_label_is_flagged(rule):
    assert label_issues(LABELS, P, rule).tolist() == [False, False, True, False, False, False]


def test_samples_outside_the_classes_do_not_count():
    labels = torch.cat((LABELS, torch.tensor([-1, -1])))
    p = torch.cat((P, torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    assert torch.equal(confident_joint(labels, p), confident_joint(LABELS, P))
    assert label_issues(labels, p).tolist() == [*label_issues(LABELS, P).tolist(), False, False]


def test_a_class_that_does_not_occur_and_a_single_class():
    p = torch.cat((P, torch.zeros(6, 1)), 1)
    assert torch.equal(label_issues(LABELS, p), label_issues(LABELS, P))
    assert not label_issues(torch.zeros(6, dtype=torch.long), P).all()


def test_rounding_keeps_the_sums_of_rows():
    rounded = _round_rows(torch.tensor([[1.4, 1.4, 1.2], [0.6, 0.7, 1.7], [2.0, 0.0, 1.0]], dtype=torch.float64))
    # 1 + 1 + 1 lacks 1: where the rest is largest; 1 + 1 + 2 has 1 too many: where it was rounded up most
    assert rounded.tolist() == [[2, 1, 1], [0, 1, 2], [2, 0, 1]]


def test_voxels_2d_3d_padding_and_regions():
    student = torch.nn.functional.one_hot(LABELS, 2).T.float()
    for spatial in [(2, 3), (1, 2, 3)]:
        s, t = student.reshape(1, 2, *spatial), P.T.reshape(1, 2, *spatial)
        flagged = voxel_label_issues(s, t)
        assert flagged.shape == (1, 1, *spatial)
        assert flagged.flatten().tolist() == [False, False, True, False, False, False]
        assert torch.equal(voxel_label_issues(s[:, 1:], t[:, 1:], activation="sigmoid"), flagged)
        assert not voxel_label_issues(s, t, mask=~flagged).any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="rule must be one of"):
        label_issues(LABELS, P, "all")
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        label_issues(LABELS[:3], P)
