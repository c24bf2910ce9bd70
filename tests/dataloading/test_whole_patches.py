"""Patches without ignored voxels, and trainers that need some."""

from __future__ import annotations

import numpy as np
import pytest

import nnunet_ssl.dataloading.whole_patches as module
from nnunet_ssl.dataloading.whole_patches import has_whole_patch
from tests.helpers.trainers import WHOLE_PATCHES
from tests.helpers.training import make_trainer, started


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 9])
def test_a_gap_is_as_wide_as_it_is(size):
    ignored = np.ones((7, 6), dtype=bool)
    ignored[1:6, 2:6] = False  # 5 x 4 voxels are annotated
    assert has_whole_patch(ignored, (size, 1)) == (size <= 5)
    assert has_whole_patch(ignored, (1, size)) == (size <= 4)
    assert not has_whole_patch(np.ones_like(ignored), (size, size))
    assert has_whole_patch(np.zeros_like(ignored), (size, size))


def test_both_axes_count_together_and_a_slice_is_enough_in_2d():
    ignored = np.ones((3, 6, 6), dtype=bool)
    ignored[1, :2] = ignored[1, :, :2] = False  # an L of two voxels
    assert (
        has_whole_patch(ignored, (2, 6)) and has_whole_patch(ignored, (6, 2)) and not has_whole_patch(ignored, (3, 3))
    )
    assert has_whole_patch(ignored, (1, 2, 2)) and not has_whole_patch(ignored, (2, 2, 2))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("name", sorted(WHOLE_PATCHES))
def test_patches_with_ignored_voxels_teach_no_distances(name, regions, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "has_whole_patch", lambda *_: True)  # the synthetic cases have none, and are refused
    trainer = started(make_trainer(name, *datasets(ignore=True, regions=regions), results=tmp_path))
    (log,) = tmp_path.rglob("training_log*.txt")
    assert log.read_text().count("teach no distances") == 1
    values = trainer.train_step(next(trainer.dataloader_train))
    assert values["sdf"] == 0 and np.isfinite(values["loss"])
