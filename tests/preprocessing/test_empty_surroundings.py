"""Sparse labels that hide the mask inside which nnU-Net normalizes."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.empty_surroundings import constant_share
from tests.helpers.training import make_trainer, started


def head(channels: int, empty: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise around which a part of the volume has one intensity, and everything ignored."""
    image = np.random.default_rng(0).normal(size=(channels, 10, 20, 20))
    image[:, : round(10 * empty)] = -0.8
    return image, np.ones(image.shape[1:], bool)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_share_of_empty_voxels(channels):
    image, ignored = head(channels, 0.4)
    assert constant_share(image, ignored) == pytest.approx(0.4, abs=0.01)
    ignored[:4] = False  # not ignored: background, which nnU-Net marks
    assert constant_share(image, ignored) < 0.01
    assert constant_share(image, np.zeros_like(ignored)) == 0


def test_a_channel_of_which_the_surroundings_are_not_empty_counts():
    image, ignored = head(2, 0.4)
    image[1] = np.random.default_rng(1).normal(size=image[1].shape)
    assert constant_share(image, ignored) < 0.01


@pytest.mark.parametrize("name", ["nnUNetTrainerScribblePCE", "nnUNetTrainerSemiSupervised"])
@pytest.mark.parametrize(
    "options",
    [{"mask_norm": True, "channels": 2, "ignored_surroundings": True}, {"mask_norm": True}, {"mask_norm": False}],
    ids=str,
)
def test_ignored_surroundings_are_refused_where_plans_normalize_inside_a_mask(name, options, datasets, tmp_path):
    trainer = make_trainer(name, *datasets(ignore=True, **options), results=tmp_path)
    if "ignored_surroundings" not in options:
        started(trainer)
        return
    with pytest.raises(
        UserError, match=r"case_00: \d+% of the voxels with the ignore label are empty.*use_mask_for_norm"
    ):
        started(trainer)


def test_dense_labels_are_not_refused(datasets, tmp_path):
    started(make_trainer("nnUNetTrainerSemiSupervised", *datasets(mask_norm=True), results=tmp_path))
