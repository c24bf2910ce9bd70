"""How alike two images are: the measure, and which pairs it is made for."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.data.similarity import best_correlations, candidate_pairs, coarse_vector, reduce_image
from tests.helpers.raw_data import phantom


def test_an_image_correlates_fully_with_a_shifted_cut_of_itself():
    image, _ = phantom(0, (32, 32, 32))
    whole = reduce_image(image[None], (32, 32, 32))
    cut = reduce_image(image[None, 4:, :28, 3:30], (28, 28, 27))
    correlation, detail = best_correlations(whole, cut)
    assert correlation > 0.999 and detail > 0.98
    other = reduce_image(phantom(1, (32, 32, 32))[0][None], (32, 32, 32))
    assert best_correlations(whole, other)[1] < 0.4


def test_voxels_outside_the_mask_do_not_make_images_alike():
    ball = np.sqrt(((np.indices((32, 32, 32)) - 15.5) ** 2).sum(0)) < 12
    one, other = (np.where(ball, phantom(seed, (32, 32, 32))[0] + 1000, 0)[None] for seed in (0, 1))
    assert best_correlations(reduce_image(one, (32, 32, 32)), reduce_image(other, (32, 32, 32)))[0] < 0.7


def test_the_coarse_version_is_the_z_scored_block_mean():
    image = np.random.default_rng(0).uniform(1, 2, (1, 16, 24, 8)).astype(np.float32)
    blocks = image[0].reshape(8, 2, 8, 3, 8, 1).mean((1, 3, 5)).ravel()
    np.testing.assert_allclose(coarse_vector(image), (blocks - blocks.mean()) / blocks.std(), atol=1e-4)
    assert coarse_vector(image[:, :1]).shape == (512,)


def test_candidates_are_of_different_patients_and_pairs_of_one_patient_are_counted():
    vector = np.random.default_rng(0).normal(size=512)
    vectors = np.stack([vector, vector, vector, -vector])
    vectors = (vectors - vectors.mean(1, keepdims=True)) / vectors.std(1, keepdims=True)
    assert candidate_pairs(vectors, ["a", "a", "b", "c"]) == ([(0, 2), (1, 2)], 1)
