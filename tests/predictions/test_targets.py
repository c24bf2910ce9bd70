"""Tests of `nnunet_ssl.predictions.targets`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.predictions.targets import as_target, join_targets, pseudo_target


def test_a_pseudo_target_has_the_form_of_the_labeled_one():
    logits = torch.tensor([[[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 3.0]]]], requires_grad=True)
    target = pseudo_target(logits, torch.zeros(2, 1, 1, 2, dtype=torch.int16))
    assert target.tolist() == [[[[1, 2]]]] and target.dtype == torch.int16 and not target.requires_grad
    inside = torch.tensor([[[[True, False]]]])
    assert pseudo_target(logits, target, inside=inside).tolist() == [[[[1, 0]]]]


def test_a_pseudo_target_of_regions_ignores_no_voxel():
    logits = torch.tensor([[[[1.0, -1.0]], [[-2.0, 2.0]]]])
    inside = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    for dtype in (torch.bool, torch.uint8):
        found = pseudo_target(logits, torch.ones(2, 3, 1, 2, dtype=dtype), "sigmoid", inside)
        assert found.dtype == dtype and found.int().tolist() == [[[[1, 0]], [[0, 1]], [[0, 0]]]]
    assert pseudo_target(logits, torch.ones(2, 2, 1, 2), "sigmoid", ~inside).sum() == 0


@pytest.mark.parametrize("size", [(8, 4), (8, 4, 6)])
def test_the_mask_is_resized_to_lower_heads(size):
    inside = torch.zeros(1, 1, *size, dtype=torch.bool)
    inside[..., : size[-1] // 2] = True
    logits = torch.zeros(1, 2, *(s // 2 for s in size))
    logits[:, 1] = 1
    found = pseudo_target(logits, torch.zeros(1, 1, *(s // 2 for s in size)), inside=inside)
    half = size[-1] // 4
    assert (found[..., :half] == 1).all() and (found[..., half + size[-1] % 4 // 2 :] == 0).all()


def test_a_label_map_is_resized_to_the_head_as_nnunet_resizes_targets():
    label = torch.tensor([[[[0, 1, 2, 1]]]])
    found = as_target(label, torch.zeros(3, 1, 1, 2, dtype=torch.int16), torch.tensor([[[[True, True, True, False]]]]))
    assert found.tolist() == [[[[1, 0]]]] and found.dtype == torch.int16
    regions = as_target(label > 0, torch.zeros(3, 2, 1, 4, dtype=torch.bool))  # the last channel: nothing is ignored
    assert regions.tolist() == [[[[False, True, True, True]], [[False] * 4]]]


def test_targets_are_joined_head_by_head():
    a, b = torch.zeros(2, 1, 4, 4), torch.ones(3, 1, 4, 4)
    assert join_targets(a, [b]).sum() == b.sum() and join_targets(a, [b]).shape[0] == 5
    joined = join_targets([a, a[..., :2]], [b, b[..., :2]])
    assert [tuple(t.shape) for t in joined] == [(5, 1, 4, 4), (5, 1, 4, 2)]
