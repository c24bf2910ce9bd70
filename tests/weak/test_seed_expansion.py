"""Labels grown from seeds: geodesic distances against shortest paths, random walks against electrical circuits."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from skimage.segmentation import random_walker

from nnunet_ssl.weak import seed_expansion
from nnunet_ssl.weak.seed_expansion import (
    Geodesic,
    RandomWalker,
    expand_seeds,
    geodesic_distance,
    geodesic_labels,
    random_walker_labels,
)
from tests.helpers.paths import shared_dir

IGNORE = 9


def shortest_paths(image, seeds, spacing, weight):
    """The geodesic distance by Dijkstra's algorithm on the graph of all neighbors, corners included."""
    index, rows, columns, costs = np.arange(seeds.size).reshape(seeds.shape), [], [], []
    for offset in itertools.product((-1, 0, 1), repeat=seeds.ndim):
        if not any(offset):
            continue
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, seeds.shape))
        there = tuple(slice(max(0, o), n + min(0, o)) for o, n in zip(offset, seeds.shape))
        length = np.sqrt(sum((o * mm) ** 2 for o, mm in zip(offset, spacing)))
        change = np.sqrt(((image[(slice(None), *here)] - image[(slice(None), *there)]) ** 2).sum(0))
        rows.append(index[here].ravel())
        columns.append(index[there].ravel())
        costs.append((length / (1 - weight + weight / (change + 1e-5))).ravel())
    graph = coo_matrix((np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns)))).tocsr()
    return dijkstra(graph, indices=index[seeds], min_only=True).reshape(seeds.shape)


def noise(shape, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return rng.random((channels, *shape))


def seeded(shape, *places):
    seeds = np.zeros(shape, bool)
    for place in places:
        seeds[place] = True
    return seeds


# --------------------------------------------------------------------------------------------------- geodesic distance


@pytest.mark.parametrize(
    "shape, spacing", [((7, 9, 8), (3.0, 0.7, 0.5)), ((11, 13), (0.8, 1.5)), ((1, 6, 7), (5, 1, 1))]
)
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_enough_scans_give_the_shortest_paths(shape, spacing, weight, channels):
    image, seeds = (
        noise(shape, channels=channels),
        seeded(shape, (0,) * len(shape), tuple(n - 2 for n in shape if n > 1) if 1 not in shape else (0, 4, 5)),
    )
    found = geodesic_distance(image, seeds, spacing, weight=weight, iterations=40)
    assert np.allclose(found, shortest_paths(image, seeds, spacing, weight), rtol=1e-5, atol=1e-9)
    assert (found[seeds] == 0).all() and (found[~seeds] > 0).all()


def test_more_scans_never_make_a_path_longer():
    image, seeds = noise((8, 12, 10)), seeded((8, 12, 10), (4, 5, 5))
    once, often = (geodesic_distance(image, seeds, (1, 1, 1), iterations=i) for i in (1, 4))
    assert (often <= once).all() and (often < once - 1e-3).any()


def test_numbers_by_hand():
    # 0, 0, 1 in a row, 2 mm apart: steps of 2 / (0.5 + 0.5 / 1e-5) and 2 / (0.5 + 0.5 / 1.00001)
    image = np.array([[[0.0, 0.0, 1.0]]])
    distance = geodesic_distance(image, seeded((1, 3), (0, 0)), (1.0, 2.0))
    first = 2 / (0.5 + 0.5 / 1e-5)
    assert np.allclose(distance[0], [0, first, first + 2 / (0.5 + 0.5 / 1.00001)], rtol=1e-6)


def test_without_weight_of_the_image_a_straight_line_is_as_long_as_it_is():
    seeds = seeded((9, 9), (4, 4))
    distance = geodesic_distance(noise((9, 9)), seeds, (2.0, 1.0), weight=0.0)
    euclidean = distance_transform_edt(~seeds, (2.0, 1.0))
    assert np.allclose(distance[4], euclidean[4]) and np.allclose(distance[:, 4], euclidean[:, 4])
    assert (distance >= euclidean - 1e-6).all()


@pytest.mark.parametrize(
    "options", [{"weight": 1.1}, {"iterations": 0}, {"seeds": np.zeros((4, 4), bool)}, {"spacing": (1, 1, 1)}]
)
def test_what_has_no_distance_is_refused(options):
    arguments = {"seeds": seeded((4, 4), (1, 1)), "spacing": (1, 1)} | options
    with pytest.raises(ValueError, match=r"weight|seed"):
        geodesic_distance(noise((4, 4)), **arguments)


def test_the_nearest_class_that_is_near_enough():
    distances = np.array([[0.0, 1.0, 2.0, 5.0, 10.0], [20.0, 1.5, 1.0, 8.0, 3.9]])
    # below 0.2 of the largest: class 4 below 2, class 7 below 4
    assert geodesic_labels(distances, [4, 7], IGNORE).tolist() == [4, 4, 7, IGNORE, 7]


# ------------------------------------------------------------------------------------------------------- random walker


def test_the_walker_is_a_chain_of_resistors():
    # seeds 0 and 1 at the ends of a row of equal intensities: the probability of 0 falls linearly. The first pixel, a seed too,
    # gives the image some contrast
    image, seeds = np.full((1, 1, 12), 0.5), np.full((1, 12), IGNORE)
    image[..., 0] = 1
    seeds[0, :2], seeds[0, -1] = 0, 1
    for threshold, expected in ((0.0, [0] * 5 + [1] * 6), (0.75, [0] * 3 + [IGNORE] * 5 + [1] * 3)):
        labels = random_walker_labels(image, seeds, IGNORE, mode="bf", threshold=threshold)[0, 1:]
        middle = 5  # probability one half: either class without a threshold
        assert np.delete(labels, middle).tolist() == np.delete(expected, middle).tolist()


def test_a_class_without_seeds_is_left_out_and_its_place_is_not_filled():
    image = np.zeros((1, 12, 12))
    image[:, :, 4:8], image[:, :, 8:] = 0.5, 1
    seeds = np.full((12, 12), IGNORE, np.uint8)
    seeds[5, 1], seeds[5, 10] = 0, 2  # nothing of the middle
    labels = random_walker_labels(image, seeds, IGNORE, mode="bf", threshold=0.9)
    assert set(np.unique(labels)) == {0, 2, IGNORE}
    assert (labels[:, :4] == 0).all() and (labels[:, 8:] == 2).all() and (labels[:, 4:8] == IGNORE).all()
    assert labels.dtype == seeds.dtype
    assert (random_walker_labels(image, seeds, IGNORE, mode="bf", required=(0, 1, 2)) == 0).all()


def test_one_class_alone_is_not_expanded():
    seeds = np.full((6, 6), IGNORE)
    seeds[2, 2:4] = 0
    assert np.array_equal(random_walker_labels(noise((6, 6)), seeds, IGNORE), seeds)
    assert np.array_equal(random_walker_labels(noise((6, 6)), np.full((6, 6), IGNORE), IGNORE), np.full((6, 6), IGNORE))


def test_channels_that_show_different_edges_are_used_together():
    image = np.zeros((2, 8, 12))
    image[0, :, 4:], image[1, :, 8:] = 1, 1
    seeds = np.full((8, 12), IGNORE)
    seeds[4, 1], seeds[4, 6], seeds[4, 10] = 0, 1, 2
    labels = random_walker_labels(image, seeds, IGNORE, mode="bf", threshold=0.9)
    assert (labels == np.repeat([0, 1, 2], 4)).all()
    assert (labels != random_walker_labels(image[:1], seeds, IGNORE, mode="bf", threshold=0.9)).any()


# --------------------------------------------------------------------------------------------------------- whole cases


def case(shape=(5, 20, 18), channels=1):
    """Two bright bars in a dark volume with noise, a seed in each and in the dark."""
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, np.uint8)
    truth[:, 4:9, 3:15], truth[:, 12:17, 3:15] = 1, 2
    image = np.stack(
        [gaussian_filter(100 * rng.normal(size=shape), 1) + 900 * (truth == 1) + 1800 * (truth == 2)] * channels
    )
    seeds = np.full(shape, IGNORE, np.uint8)
    seeds[:, 1, 2:16], seeds[:, 6, 4:12], seeds[:, 14, 4:12] = 0, 1, 2
    return image, seeds, truth


METHODS = [RandomWalker(), Geodesic()]


def test_what_strong_edges_enclose_has_probabilities_though_no_seed_lies_in_it(monkeypatch):
    """Steps across them weigh 1e-10, which single precision loses: the voxels had -3e8 in place of probabilities."""
    found = []

    def spy(image, *arguments, **options):
        found.append((image.dtype, random_walker(image, *arguments, **options)))
        return found[-1][1]

    monkeypatch.setattr(seed_expansion, "random_walker", spy)
    image, seeds = noise((22, 20), channels=2).astype(np.float32) / 20, np.full((22, 20), IGNORE)
    image[:, 16:19, 6:14] += 0.9
    seeds[2, 3:17], seeds[14, 6:14] = 0, 1
    labels = random_walker_labels(image, seeds, IGNORE, mode="bf")
    ((precision, probabilities),) = found
    assert precision == np.float64  # with NumPy 1 all of it is computed in the precision of the image
    assert np.allclose(probabilities.sum(0), 1, atol=1e-4) and probabilities.min() >= 0
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize("per_slice", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_seeds_grow_to_the_edges_of_what_they_lie_in(method, per_slice, channels):
    image, seeds, truth = case(channels=channels)
    labels = expand_seeds(image, seeds, IGNORE, (8.0, 1.5, 1.5), method, per_slice)
    assert labels.shape == seeds.shape and labels.dtype == seeds.dtype
    known = labels != IGNORE
    assert known.sum() > 4 * (seeds != IGNORE).sum()
    assert (labels == truth)[known].mean() > 0.99
    for label in (1, 2):
        assert (labels == label)[truth == label].mean() > 0.7


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_an_annotated_voxel_keeps_its_label_even_where_the_image_contradicts(method):
    image, seeds, _ = case()
    seeds[2, 6, 8], seeds[2, 1, 8] = 2, 1
    labels = expand_seeds(image, seeds, IGNORE, (1, 1, 1), method, per_slice=False)
    assert np.array_equal(labels[seeds != IGNORE], seeds[seeds != IGNORE])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_scale_and_offset_of_the_intensities_do_not_matter(method):
    image, seeds, _ = case()
    labels = [expand_seeds(i, seeds, IGNORE, (1, 1, 1), method, True) for i in (image, 1e-3 * image - 7)]
    assert (labels[0] != labels[1]).mean() < 1e-3


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("spacing, axis", [((5, 1, 1), 0), ((1, 1, 5), 2), ((1, 1, 1), 0)])
def test_slices_are_those_across_the_largest_spacing_and_know_nothing_of_each_other(method, spacing, axis):
    image, seeds, _ = case(shape=(7, 20, 18))
    np.moveaxis(seeds, axis, 0)[3] = IGNORE  # a slice without seeds
    changed = seeds.copy()
    np.moveaxis(changed, axis, 0)[5:] = IGNORE
    labels = expand_seeds(image, seeds, IGNORE, spacing, method, True)
    others = expand_seeds(image, changed, IGNORE, spacing, method, True)
    assert (np.moveaxis(labels, axis, 0)[3] == IGNORE).all()
    assert np.array_equal(np.moveaxis(labels, axis, 0)[:5], np.moveaxis(others, axis, 0)[:5])
    assert not np.array_equal(labels, others)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_slice_is_the_same_as_a_volume_of_one_slice_and_as_an_image(method):
    image, seeds, _ = case(shape=(1, 20, 18))
    labels = [expand_seeds(image, seeds, IGNORE, (999, 1, 1), method, per_slice) for per_slice in (True, False)]
    labels.append(expand_seeds(image[:, 0], seeds[0], IGNORE, (1, 1), method, False)[None])
    assert np.array_equal(labels[0], labels[1]) and np.array_equal(labels[0], labels[2])
    assert (labels[0] != seeds).any()


def test_voxels_that_are_not_numbers_are_dark():
    image, seeds, _ = case()
    image[:, :, :, -1] = np.nan
    assert (expand_seeds(image, seeds, IGNORE, (1, 1, 1), Geodesic(), False) != IGNORE).sum() > (seeds != IGNORE).sum()


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_real_scribbles_of_the_heart_grow_into_it():
    data = shared_dir("data")
    case = "patient002_frame01"
    image = _read(data / "acdc" / "training" / "patient002" / f"{case}.nii.gz")
    truth = _read(data / "acdc" / "training" / "patient002" / f"{case}_gt.nii.gz")
    seeds = _read(data / "acdc_scribbles" / f"{case}_scribble.nii.gz")
    rows, columns = (slice(max(0, where.min() - 20), where.max() + 20) for where in np.nonzero(truth.any(0)))
    cut = (slice(3, 5), rows, columns)
    image, truth, seeds = image[cut], truth[cut], seeds[cut]
    for method, per_slice, accuracy, covered in ((RandomWalker(), True, 0.98, 0.4), (Geodesic(), False, 0.85, 0.9)):
        labels = expand_seeds(image[None], seeds, 4, (10.0, 1.37, 1.37), method, per_slice)
        known = labels != 4
        assert known.mean() > 5 * (seeds != 4).mean()
        assert (labels == truth)[known].mean() > accuracy
        assert known[truth > 0].mean() > covered
