"""Tests of `nnunet_ssl.losses.tightness`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_ssl.losses.size import barrier_steepness, extended_log_barrier, scaled_bounds, size_loss
from nnunet_ssl.losses.tightness import tightness_loss
from nnunet_ssl.patches.boxes import BoxTargets, box_rows, box_strips, box_sums, box_volumes


def test_tightness_by_hand():
    p = torch.zeros(1, 2, 5, 5)
    p[0, 1, 1:3, 1:4] = 0.5
    strips, bounds = box_strips(np.array([[1, 1], [3, 4]]), width=2)
    rows, bounds = box_rows(0, 1, strips), torch.from_numpy(bounds).float()
    assert bounds.tolist() == [2, 2, 1]  # sums 3, 2, 1
    assert float(tightness_loss(p, rows, bounds, reduction="sum")) == 0
    assert float(tightness_loss(0.5 * p, rows, bounds, reduction="sum")) == pytest.approx(0.5 + 1 + 0.5)
    assert float(tightness_loss(0.5 * p, rows, bounds)) == pytest.approx(2 / 3)
    psi = [float(extended_log_barrier(torch.tensor(z), 5.0)) for z in (-1.0, 0.0, 0.0)]
    assert float(tightness_loss(p, rows, bounds, t=5.0)) == pytest.approx(sum(psi) / 3, rel=1e-5)
    p.requires_grad_()
    nothing = tightness_loss(p, rows[:0], bounds[:0], t=5.0)
    assert nothing.item() == 0 and not torch.autograd.grad(nothing, p)[0].any()


def test_boxes_teach_an_object_without_any_of_its_voxels_annotated():
    """Gradient descent on p alone: strips and sizes fill the box, whatever the start."""
    target = torch.zeros(1, 1, 12, 14, dtype=torch.int16)
    target[..., 3:9, 4:11] = 3  # the ignore label
    found = BoxTargets(num_classes=1, width=2)(target)
    logits = torch.full((1, 2, 12, 14), 0.0)
    logits[:, 1] = -3
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(150):
        p = logits.softmax(1)
        t = barrier_steepness(5, 1.1, step / 10)
        bounds = scaled_bounds(box_volumes(found["boxes"]), 0.5, 0.9)
        loss = tightness_loss(p, found["strips"], found["bounds"], t=t)
        loss = loss + size_loss(box_sums(p, found["boxes"]), bounds, 12 * 14, t=t, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    size = box_sums(logits.softmax(1), found["boxes"]).item()
    assert 0.5 * 42 <= size <= 0.9 * 42
    outside = logits.detach().softmax(1)[0, 1] * (target[0, 0] == 0)
    assert outside.max() < 0.05  # no term says anything there
