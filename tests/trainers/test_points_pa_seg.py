"""PA-Seg: terms and schedule."""

from __future__ import annotations

import math

import pytest

from nnunet_ssl.losses.intensity_variance import intensity_variance
from nnunet_ssl.patches.intensity import rescale_to_unit
from nnunet_ssl.predictions.probabilities import probabilities
from tests.helpers.trainers import sparse_patches


@pytest.fixture
def pa_seg(built):
    trainer, _ = built("nnUNetTrainerPointsPASeg", (1.0, 1.0, 1.0), (8, 10, 12))
    return trainer


def test_pa_seg_adds_the_variance_of_the_image_to_the_crf_term(pa_seg):
    logits, batch = sparse_patches((8, 10, 12))
    terms = pa_seg.weak_terms([logits], batch)
    assert sorted(terms) == ["gated_crf", "variance"] and pa_seg.chosen == "three_views"
    p, images = probabilities(logits), rescale_to_unit(batch.labeled, batch.labeled_inside)
    expected = intensity_variance(p, images, mask=batch.labeled_inside, without_minimum=True)
    assert terms["variance"].item() == pytest.approx(expected.item(), rel=1e-6)
    pa_seg.without_minimum = False
    assert pa_seg.weak_terms([logits], batch)["variance"].item() != pytest.approx(expected.item(), rel=1e-4)
    changed, other = sparse_patches((8, 10, 12))
    changed[0, ..., :2] += 3  # padding, whose neighbors in cells of 2 voxels are padding too
    other.labeled[0, ..., :2] = 1e4
    for name, value in pa_seg.weak_terms([changed], other).items():
        assert value.item() == pytest.approx(pa_seg.weak_terms([logits], batch)[name].item(), rel=1e-5)


def test_pa_seg_ramps_both_terms_over_a_tenth_of_the_training(pa_seg):
    steps = pa_seg.num_epochs * pa_seg.num_iterations_per_epoch
    pa_seg.num_epochs, pa_seg.num_iterations_per_epoch = 10 * steps, 10
    for progress, ramp in ((0.0, math.exp(-5)), (0.05, math.exp(-1.25)), (0.1, 1.0), (1.0, 1.0)):
        pa_seg.iteration = round(progress * pa_seg.num_epochs * pa_seg.num_iterations_per_epoch)
        weights = pa_seg.weights()
        assert weights == pytest.approx({"gated_crf": ramp, "variance": 0.1 * ramp}, rel=1e-6)
