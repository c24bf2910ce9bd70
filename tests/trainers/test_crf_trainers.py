"""The two CRF trainers: which grid and windows they choose, their schedule, padding, and the numbers of their terms."""

from __future__ import annotations

import math
import types

import pytest
import torch

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.losses.dense_crf import dense_crf_loss
from nnunet_ssl.losses.gated_crf import GaussianKernel, gated_crf_loss
from nnunet_ssl.patches.coarse_grid import cell_means, whole_cells
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.trainers import nnUNetTrainerScribbleDenseCRF, nnUNetTrainerScribbleGatedCRF
from tests.helpers.training import make_trainer, started

GATED, DENSE = "nnUNetTrainerScribbleGatedCRF", "nnUNetTrainerScribbleDenseCRF"


@pytest.fixture
def built(datasets, tmp_path):
    """A trainer that has run `build_method` for a spacing and a patch of this size, and what it wrote to the log."""

    def build(name, spacing, patch=None, channels=1, **attributes):
        out, dataset = datasets(ignore=True, unlabeled=0)
        dimension = "2d" if len(spacing) == 2 else "3d_fullres"
        trainer = make_trainer(name, out, dataset, dimension, results=tmp_path, **attributes)
        trainer.configuration_manager = types.SimpleNamespace(spacing=spacing, patch_size=patch or (16,) * len(spacing))
        trainer.num_input_channels = channels  # as initialize() sets it
        said = []
        trainer.print_to_log_file = lambda *text, **_: said.append(" ".join(map(str, text)))
        trainer.build_method()
        return trainer, "\n".join(said)

    return build


def patches(spatial, classes=3, channels=2):
    generator = torch.Generator().manual_seed(sum(spatial))
    logits = torch.randn(2, classes, *spatial, generator=generator).requires_grad_()
    images = 30 * torch.randn(2, channels, *spatial, generator=generator)
    inside = torch.ones(2, 1, *spatial, dtype=torch.bool)
    inside[0, ..., :3] = False
    target = torch.zeros(2, 1, *spatial)
    return logits, SSLBatch(images, target, ("a", "b"), labeled_inside=inside)


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
    with pytest.raises(ValueError, match="window must be"):
        built(GATED, (1.0, 1.0), window="3d")


def test_the_coarse_grid_follows_patch_and_spacing(built):
    trainer, said = built(DENSE, (1.5, 1.5), (256, 224))
    assert trainer.cells == (4, 4) and trainer.edges == [4.0, 4.0]  # 64 x 56 cells
    assert trainer.sigma == pytest.approx(15 / 255 / math.sqrt(3))  # one channel of a gray image
    assert "cells of (4, 4) voxels, for a patch of (256, 224) voxels" in said and "150 mm" in said
    trainer, _ = built(DENSE, (8.0, 1.0, 1.0), (16, 256, 256))
    assert trainer.cells == (1, 8, 8) and trainer.edges == [8.0, 8.0, 8.0]
    trainer, _ = built(DENSE, (1.0, 1.0), (96, 96), max_cells=100)
    assert trainer.cells == (16, 8)
    with pytest.raises(ValueError, match="method must be"):
        built(DENSE, (1.0, 1.0), method="fast")


@pytest.mark.parametrize("name, term", [(GATED, "gated_crf"), (DENSE, "dense_crf")])
def test_the_term_starts_late_and_reaches_its_weight(name, term, built):
    trainer, _ = built(name, (1.0, 1.0))
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    weights = {}
    for percent in (0, 4, 5, 25, 45, 100):
        trainer.iteration = percent * steps // 100
        (weights[percent],) = trainer.weights().values()
        assert list(trainer.weights()) == [term]
    assert weights[0] == weights[4] == 0
    assert weights[5] == pytest.approx(0.1 * math.exp(-5))
    assert weights[25] == pytest.approx(0.1 * math.exp(-1.25))
    assert weights[45] == weights[100] == pytest.approx(0.1)


def test_the_gated_term_by_hand(built):
    trainer, _ = built(GATED, (8.0, 2.0, 1.0), radius=2, sigma_position=3.0, sigma_intensity=0.2)
    logits, batch = patches((3, 6, 8))
    found = trainer.weak_terms([logits], batch)["gated_crf"]
    inside, images = batch.labeled_inside, rescale_to_unit(batch.labeled, batch.labeled_inside)
    kernel = [GaussianKernel(1.0, 3.0, 0.2)]
    masks = {"source": inside, "destination": inside}
    expected = gated_crf_loss(logits.softmax(1), images, kernel, (0, 2, 2), (8.0, 2.0, 1.0), **masks)
    assert found > 0 and torch.equal(found, expected)

    trainer, _ = built(GATED, (1.0, 1.0, 1.0), radius=2)
    logits, batch = patches((5, 6, 8))
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


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_the_dense_term_by_hand(method, built):
    trainer, _ = built(DENSE, (2.0, 1.0), (12, 16), channels=2, max_cells=60, method=method)
    logits, batch = patches((12, 16))
    found = trainer.weak_terms([logits], batch)["dense_crf"]
    cells = (2, 2)
    assert trainer.cells == cells
    inside = whole_cells(batch.labeled_inside, cells)
    images = cell_means(rescale_to_unit(batch.labeled, batch.labeled_inside), cells)
    p = cell_means(logits.softmax(1), cells)
    sigma = 15 / 255 * math.sqrt(2 / 3)  # two channels
    expected = dense_crf_loss(p, images, 100.0, sigma, (4.0, 2.0), inside, method=method)
    assert 0 < found < 1 and torch.equal(found, expected)


@pytest.mark.parametrize("name", [GATED, DENSE])
def test_padding_has_no_influence(name, built):
    trainer, _ = built(name, (1.0, 1.0), (12, 16))
    logits, batch = patches((12, 16))
    (term,) = trainer.weak_terms([logits], batch).values()
    gradient = torch.autograd.grad(term, logits)[0]
    padding = ~batch.labeled_inside.expand_as(logits)
    assert gradient[padding].abs().max() == 0 and gradient[~padding].abs().min() > 0
    changed = torch.where(padding, 7.0, logits)
    batch.labeled[~batch.labeled_inside.expand_as(batch.labeled)] = 1e4
    (other,) = trainer.weak_terms([changed], batch).values()
    assert torch.allclose(other, term)


@pytest.mark.parametrize("name", [GATED, DENSE])
def test_the_training_log_says_what_was_chosen(name, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    started(make_trainer(name, out, dataset, "3d_fullres", results=tmp_path))
    (log,) = tmp_path.rglob("training_log*.txt")
    assert ("three views" if name == GATED else "Dense CRF (exact): cells of (1, 1, 1) voxels") in log.read_text()
    assert nnUNetTrainerScribbleGatedCRF.radius == 5 and nnUNetTrainerScribbleDenseCRF.sigma_position == 100
