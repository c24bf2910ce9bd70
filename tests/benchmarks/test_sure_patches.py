"""SemiSupervised that leaves patches out whose foreground it hardly finds: the share, and the trainer."""

from __future__ import annotations

import pytest
import torch

from benchmarks.trainers.sure_patches import sure_share
from tests.helpers.training import make_trainer, started


def test_a_patch_is_as_sure_as_is_what_may_be_foreground():
    labels = torch.tensor([[[[2, 1, 0, 0, 0, 1]]], [[[0, 0, 0, 0, 0, 1]]], [[[0, 0, 0, 0, 1, 1]]]])
    sure = torch.tensor([[[[True, False, False, True, True, True]]], [[[True] * 6]], [[[False] * 6]]])
    inside = torch.tensor([[[[True] * 5 + [False]]]])
    assert sure_share(labels, sure, inside).flatten().tolist() == pytest.approx([1 / 3, 1, 0])
    regions = torch.tensor([[[True, True, False]], [[False, False, True]]])[None]
    sure = torch.tensor([[[True, False, True]], [[True, False, False]]])[None]
    share = sure_share(regions, sure, torch.ones(1, 1, 1, 3, dtype=bool))
    assert share.shape == (1, 2, 1, 1) and share.flatten().tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("keeps_foreground", "second"), [(False, [False] * 3), (True, [False, False, True])])
def test_patches_whose_foreground_is_hardly_found_do_not_count(
    keeps_foreground, second, datasets, tmp_path, trainers_of_benchmarks
):
    name, attributes = "nnUNetTrainerSemiSupervisedSurePatches", {"confidence": 0.7, "by_class": False}
    attributes["keeps_foreground"] = keeps_foreground
    trainer = started(make_trainer(name, *datasets(), results=tmp_path, **attributes))
    labels = torch.tensor([[[[0, 1, 0]]], [[[0, 1, 1]]]])
    confidence = torch.tensor([[[[0.9, 0.8, 0.5]]], [[[0.6, 0.6, 0.8]]]])  # 1 of 2, 1 of 3
    sure = trainer.sure(labels, confidence, torch.ones(2, 1, 1, 3, dtype=bool))
    assert sure.tolist() == [[[[True, True, False]]], [[second]]]
