"""Gated CRF: windows by spacing, schedule, padding, and the number of its term."""

from __future__ import annotations

import torch

from nnunet_ssl.losses.gated_crf import GaussianKernel, gated_crf_loss
from nnunet_ssl.patches.coarse_grid import cell_means, whole_cells
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.trainers import nnUNetTrainerScribbleGatedCRF
from tests.helpers.trainers import assert_late_sigmoid_ramp, assert_padding_has_no_influence, sparse_patches
from tests.helpers.training import make_trainer, started

GATED = "nnUNetTrainerScribbleGatedCRF"


def test_windows_follow_the_spacing(built):
    trainer, said = built(GATED, (1.5, 1.5))
    assert (trainer.radii, trainer.cells, trainer.edges) == ([5, 5], [1, 1], [1.0, 1.0])
    assert "one view, radius [5, 5]" in said and "sigma is 9 mm" in said

    trainer, said = built(GATED, (8.0, 1.0, 1.5))
    assert (trainer.radii, trainer.cells, trainer.edges) == ([0, 5, 5], [1, 1, 1], [8.0, 1.0, 1.5])
    assert "one view, radius [0, 5, 5] in cells of [1, 1, 1] voxels" in said

    trainer, said = built(GATED, (1.0, 0.5, 0.5))
    assert trainer.chosen == "three_views"
    assert (trainer.radii, trainer.cells, trainer.edges) == ([5, 5, 5], [2, 2, 2], [2.0, 1.0, 1.0])
    assert "three views" in said and "cells of [2, 2, 2] voxels" in said and "sigma is 6 mm" in said

    trainer, _ = built(GATED, (1.0, 0.5, 0.5), window="slices", cell=2, radius=3)
    assert (trainer.radii, trainer.cells, trainer.edges) == ([0, 3, 3], [1, 2, 2], [1.0, 1.0, 1.0])
    trainer, _ = built(GATED, (8.0, 1.0, 1.0), window="volume", radius=2)
    assert (trainer.chosen, trainer.radii, trainer.cells) == ("volume", [2, 2, 2], [1, 1, 1])


def test_the_term_starts_late_and_reaches_its_weight(built):
    trainer, _ = built(GATED, (1.0, 1.0))
    assert_late_sigmoid_ramp(trainer, "gated_crf")


def test_the_gated_term_by_hand(built):
    trainer, _ = built(GATED, (8.0, 2.0, 1.0), radius=2, sigma_position=3.0, sigma_intensity=0.2)
    logits, batch = sparse_patches((3, 6, 8), channels=2)
    found = trainer.weak_terms([logits], batch)["gated_crf"]
    inside, images = batch.labeled_inside, rescale_to_unit(batch.labeled, batch.labeled_inside)
    kernel = [GaussianKernel(1.0, 3.0, 0.2)]
    masks = {"source": inside, "destination": inside}
    expected = gated_crf_loss(logits.softmax(1), images, kernel, (0, 2, 2), (8.0, 2.0, 1.0), **masks)
    assert found > 0 and torch.equal(found, expected)

    trainer, _ = built(GATED, (1.0, 1.0, 1.0), radius=2)
    logits, batch = sparse_patches((5, 6, 8), channels=2)
    found = trainer.weak_terms([logits], batch)["gated_crf"]
    cells = [2, 2, 2]
    inside = whole_cells(batch.labeled_inside, cells)
    assert inside.shape == (2, 1, 3, 3, 4)
    images = cell_means(rescale_to_unit(batch.labeled, batch.labeled_inside), cells)
    p = cell_means(logits.softmax(1), cells)
    views = [
        gated_crf_loss(p, images, radius=r, source=inside, destination=inside)
        for r in ((0, 2, 2), (2, 0, 2), (2, 2, 0))
    ]
    assert torch.allclose(found, sum(views) / 3)


def test_padding_has_no_influence(built):
    trainer, _ = built(GATED, (1.0, 1.0), (12, 16))
    assert_padding_has_no_influence(trainer, *sparse_patches((12, 16), channels=2))


def test_the_training_log_says_what_was_chosen(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    started(make_trainer(GATED, out, dataset, "3d_fullres", results=tmp_path))
    (log,) = tmp_path.rglob("training_log*.txt")
    assert "three views" in log.read_text()
    assert nnUNetTrainerScribbleGatedCRF.radius == 5
