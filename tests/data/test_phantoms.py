"""Phantoms: the same seed gives the same files, in the layout and with the codes of the LA challenge."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, label

from nnunet_ssl.data.phantoms import make_phantom, write_la_phantoms
from nnunet_ssl.errors import UserError

SHAPE = (40, 36, 20)


def _digests(root):
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms") / "la"
    return root, *write_la_phantoms(root, 3, 2, seed=5, shape=SHAPE)


def test_the_files_lie_as_in_the_challenge_archive(written):
    root, train, test = written
    assert (root / "train.list").read_text().split() == train
    assert (root / "test.list").read_text().split() == test
    assert len(set(train + test)) == 5
    assert sorted(folder.name for folder in (root / "Training Set").iterdir()) == sorted(train + test)
    for case in train + test:
        assert len(case) == 20
        assert sorted(f.name for f in (root / "Training Set" / case).iterdir()) == ["laendo.nrrd", "lgemri.nrrd"]


def test_images_are_uint8_with_the_published_spacing_and_masks_are_0_and_255(written):
    root, train, test = written
    for case in train + test:
        image, mask = (
            sitk.ReadImage(str(root / "Training Set" / case / name)) for name in ("lgemri.nrrd", "laendo.nrrd")
        )
        assert image.GetSize() == mask.GetSize() == SHAPE
        assert image.GetSpacing() == mask.GetSpacing() == (0.625,) * 3
        assert image.GetPixelID() == mask.GetPixelID() == sitk.sitkUInt8
        assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 255}


def test_equal_seeds_write_equal_files_and_others_do_not(written, tmp_path):
    root, *_ = written
    write_la_phantoms(tmp_path / "again", 3, 2, seed=5, shape=SHAPE)
    assert _digests(tmp_path / "again") == _digests(root)
    write_la_phantoms(tmp_path / "other", 3, 2, seed=6, shape=SHAPE)
    assert not set(_digests(tmp_path / "other").values()) & set(_digests(root).values())


def test_the_first_cases_do_not_depend_on_how_many_follow(written, tmp_path):
    _, train, test = written
    assert write_la_phantoms(tmp_path / "few", 1, 1, seed=5, shape=SHAPE) == (train[:1], test[:1])


def test_an_atrium_is_one_piece_of_plausible_size_that_differs_between_cases():
    masks = [make_phantom(np.random.default_rng([1, k]), SHAPE)[1] > 0 for k in range(6)]
    for mask in masks:
        assert label(mask)[1] == 1
        assert 0.01 < mask.mean() < 0.25
    overlap = [2 * (masks[0] & other).sum() / (masks[0].sum() + other.sum()) for other in masks[1:]]
    assert max(overlap) < 0.9


def test_contrast_varies_and_something_outside_is_as_bright_as_the_atrium():
    contrasts = []
    for k in range(6):
        image, mask = make_phantom(np.random.default_rng([1, k]), SHAPE)
        around = binary_dilation(mask > 0, iterations=3) & (mask == 0)
        contrasts.append(image[mask > 0].mean() / image[around].mean())
        outside = ~binary_dilation(mask > 0, iterations=4)
        assert (image[outside] >= np.median(image[mask > 0])).sum() > 100
    assert min(contrasts) > 1
    assert max(contrasts) > 1.15 * min(contrasts)


def test_a_folder_with_content_and_a_tiny_shape_are_refused(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_la_phantoms(tmp_path, 1, 1)
    with pytest.raises(UserError, match="at least 16"):
        make_phantom(np.random.default_rng(0), (64, 64, 8))
