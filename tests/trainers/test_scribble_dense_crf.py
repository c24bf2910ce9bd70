"""Dense CRF: the coarse grid, schedule, padding, and the number of its term."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.losses.dense_crf import dense_crf_loss
from nnunet_ssl.patches.coarse_grid import cell_means, whole_cells
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.trainers import nnUNetTrainerScribbleDenseCRF
from tests.helpers.trainers import assert_late_sigmoid_ramp, assert_padding_has_no_influence, sparse_patches
from tests.helpers.training import make_trainer, started

DENSE = "nnUNetTrainerScribbleDenseCRF"


def test_the_coarse_grid_follows_patch_and_spacing(built):
    trainer, said = built(DENSE, (1.5, 1.5), (256, 224))
    assert trainer.cells == (4, 4) and trainer.edges == [4.0, 4.0]  # 64 x 56 cells
    assert trainer.sigma == pytest.approx(15 / 255 / math.sqrt(3))  # one channel of a gray image
    assert "cells of (4, 4) voxels, for a patch of (256, 224) voxels" in said and "150 mm" in said
    trainer, _ = built(DENSE, (8.0, 1.0, 1.0), (16, 256, 256))
    assert trainer.cells == (1, 8, 8) and trainer.edges == [8.0, 8.0, 8.0]
    trainer, _ = built(DENSE, (1.0, 1.0), (96, 96), max_cells=100)
    assert trainer.cells == (16, 8)


def test_the_term_starts_late_and_reaches_its_weight(built):
    trainer, _ = built(DENSE, (1.0, 1.0))
    assert_late_sigmoid_ramp(trainer, "dense_crf")


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_the_dense_term_by_hand(method, built):
    trainer, _ = built(DENSE, (2.0, 1.0), (12, 16), channels=2, max_cells=60, method=method)
    logits, batch = sparse_patches((12, 16), channels=2)
    found = trainer.weak_terms([logits], batch)["dense_crf"]
    cells = (2, 2)
    assert trainer.cells == cells
    inside = whole_cells(batch.labeled_inside, cells)
    images = cell_means(rescale_to_unit(batch.labeled, batch.labeled_inside), cells)
    p = cell_means(logits.softmax(1), cells)
    sigma = 15 / 255 * math.sqrt(2 / 3)  # two channels
    expected = dense_crf_loss(p, images, 100.0, sigma, (4.0, 2.0), inside, method=method)
    assert 0 < found < 1 and torch.equal(found, expected)


def test_padding_has_no_influence(built):
    trainer, _ = built(DENSE, (1.0, 1.0), (12, 16))
    assert_padding_has_no_influence(trainer, *sparse_patches((12, 16), channels=2))


def test_the_training_log_says_what_was_chosen(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    started(make_trainer(DENSE, out, dataset, "3d_fullres", results=tmp_path))
    (log,) = tmp_path.rglob("training_log*.txt")
    assert "Dense CRF (exact): cells of (1, 1, 1) voxels" in log.read_text()
    assert nnUNetTrainerScribbleDenseCRF.sigma_position == 100
