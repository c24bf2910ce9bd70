"""The rules of weak labels: strokes, points, boxes, and the label map of a case."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nnunet_ssl.errors import UserError
from nnunet_ssl.weak import strokes
from nnunet_ssl.weak.boxes import component_boxes, filled_boxes, slice_boxes, tight_box
from nnunet_ssl.weak.generate import RULES, Recipe, scribble_labels, seed_of, sources_of_patients, weaken
from nnunet_ssl.weak.points import (
    balls,
    center_points,
    centroid_disk,
    eroded_seed,
    extreme_points,
    points_around,
    random_disk,
    random_points,
)
from nnunet_ssl.weak.recipes import make_recipe
from tests.helpers.paths import REPOSITORY

SQUARE = np.ones((3, 3), bool)


def drawing(*rows: str) -> np.ndarray:
    """A mask from text: `#` is inside."""
    return np.array([[character == "#" for character in row] for row in rows])


def number_of_parts(mask: np.ndarray) -> int:
    return ndimage.label(mask, SQUARE)[1]


def crescent() -> np.ndarray:
    rows, columns = np.indices((64, 48))
    disk = (rows - 30) ** 2 + (columns - 24) ** 2 < 20**2
    return disk & ((rows - 30) ** 2 + (columns - 32) ** 2 >= 14**2)


# --- strokes ----------------------------------------------------------------------------------------------------------


def test_the_innermost_pixel_is_the_farthest_from_the_outline_and_the_image_border():
    mask = np.zeros((7, 9), bool)
    mask[1:6, 2:7] = True
    assert np.argwhere(strokes.innermost_pixel(mask)).tolist() == [[3, 4]]
    assert np.argwhere(strokes.innermost_pixel(np.ones((5, 5), bool))).tolist() == [[2, 2]]
    assert not strokes.innermost_pixel(np.zeros((3, 3), bool)).any()


def test_the_largest_parts_are_kept_and_corners_connect():
    mask = drawing("##...#", "..#...", "......", "##....")
    assert strokes.largest_parts(mask, 1).sum() == 3
    assert strokes.largest_parts(mask, 2).sum() == 5
    assert strokes.largest_parts(mask, None).sum() == mask.sum() == 6


def test_painted_strokes_have_their_codes_and_the_rest_is_unlabeled():
    painted = strokes.paint({0: drawing("#..", "..."), 2: drawing("..#", "..#")}, unlabeled=9)
    assert painted.tolist() == [[0, 9, 2], [9, 9, 2]]


def test_the_skeleton_of_a_bar_is_its_middle_row_thickened_by_the_cross():
    mask = np.zeros((11, 30), bool)
    mask[2:9, 2:28] = True
    stroke = strokes.skeleton_stroke(mask)
    assert not (stroke & ~mask).any()
    # away from the ends: rows 4 to 6, the middle row 5 and its neighbors
    assert np.argwhere(stroke[:, 10:20].all(axis=1)).ravel().tolist() == [4, 5, 6]
    assert stroke[:, 10:20].sum() == 30


def test_a_path_through_a_fork_keeps_one_of_its_arms():
    skeleton = np.zeros((12, 21), bool)
    skeleton[2, 1:20] = True
    skeleton[2:11, 10] = True
    everywhere = np.ones_like(skeleton)
    ways = set()
    for seed in range(20):
        stroke = strokes.cut_branches(skeleton, everywhere, random.Random(seed))
        assert stroke[1:4, 1:7].all()
        right, down = stroke[2, 14:20], stroke[6:11, 10]
        assert right.all() or not right.any()
        assert down.all() or not down.any()
        ways.add((right.all().item(), down.all().item()))
    # a path that turns round in the corner ends beside the fork, and has neither
    assert {(True, False), (False, True)} <= ways <= {(True, False), (False, True), (False, False)}


def test_a_path_that_runs_into_itself_loses_what_came_after_its_last_fork():
    # a stem (row 3) into a loop; walked round, the loop ends beside the fork at column 5 or 6
    skeleton = drawing(
        "..............",
        "......####....",
        ".....#....#...",
        ".#####....#...",
        ".....#....#...",
        "......####....",
        "..............",
    )
    for seed in range(10):
        stroke = strokes.cut_branches(skeleton, np.ones_like(skeleton), random.Random(seed))
        assert stroke[3, 1:6].all()
        assert not stroke[:, 9:].any()


def test_a_skeleton_at_the_image_border_does_not_reach_round_to_the_other_side():
    skeleton = np.zeros((9, 9), bool)
    skeleton[0] = skeleton[:, 8] = True
    stroke = strokes.cut_branches(skeleton, np.ones_like(skeleton), random.Random(0))
    assert stroke[0].all() and stroke[:, 8].all()
    assert not stroke[2:, :7].any()


def test_a_path_of_thousands_of_pixels_is_no_recursion():
    skeleton = np.zeros((101, 101), bool)
    skeleton[::2] = True
    skeleton[1::4, 100] = skeleton[3::4, 0] = True
    stroke = strokes.cut_branches(skeleton, np.ones((101, 101), bool) & (np.arange(101) < 9), random.Random(0))
    assert skeleton.sum() > 5000 and stroke.any()


def test_strokes_of_large_masks_are_moved_and_of_small_ones_not():
    for size, moved in ((31, False), (61, True)):
        mask = np.zeros((80, 80), bool)
        mask[5 : 5 + size, 5 : 5 + size] = True
        skeleton = np.zeros_like(mask)
        skeleton[20, 10:30] = True
        results = [strokes.cut_branches(skeleton, mask, random.Random(seed)) for seed in range(6)]
        unmoved = ndimage.binary_dilation(skeleton, SQUARE)
        assert all(np.array_equal(result, unmoved) for result in results) is not moved
        assert not any((result & ~mask).any() for result in results)


def test_where_erosion_leaves_nothing_the_whole_skeleton_is_used():
    mask = np.zeros((4, 400), bool)
    mask[1:4] = True  # 1200 pixels, three high: two erosions leave nothing
    assert not strokes.eroded_skeleton(mask, random.Random(0), (2, 2)).any()
    assert strokes.cut_stroke(mask, random.Random(0), (2, 2)).any()
    assert strokes.background_stroke(mask, random.Random(0), (2, 2)).any()


def test_a_walk_covers_about_its_fraction_of_the_mask():
    mask = crescent()
    covered = [strokes.walk_stroke(mask, np.random.RandomState(seed), 0.1) for seed in range(10)]
    assert not any((stroke & ~mask).any() for stroke in covered)
    # thinning and thickening change the number of pixels, not its order of magnitude
    assert 0.04 < np.mean([stroke.sum() for stroke in covered]) / mask.sum() < 0.25
    assert strokes.walk_stroke(mask, np.random.RandomState(0), 1.0).sum() == mask.sum()


def test_a_walk_in_an_image_wider_than_high_passes_the_column_of_the_height():
    # the released code turns every step into a column from the number of rows on into a jump to the last column
    mask = np.zeros((8, 60), bool)
    mask[2:6, 20:40] = True
    assert strokes.walk_stroke(mask, np.random.RandomState(0), 0.3).sum() > 15
    assert strokes.walk_stroke(mask, np.random.RandomState(0), 0.3, released_clipping=True).sum() <= 12


def test_a_line_holds_both_ends_and_each_pixel_touches_the_next():
    assert strokes.line_pixels((2, 1), (2, 4)).tolist() == [[2, 1], [2, 2], [2, 3], [2, 4]]
    assert strokes.line_pixels((5, 5), (5, 5)).tolist() == [[5, 5]]
    steps = np.abs(np.diff(strokes.line_pixels((9, 2), (1, 30)), axis=0)).max(axis=1)
    assert (steps == 1).all()


def test_components_are_drawn_by_their_area():
    mask = np.zeros((20, 20), bool)
    mask[:10, :9] = mask[15, :10] = True  # 90 and 10 pixels
    rng = np.random.RandomState(0)
    large = np.mean([strokes.random_component(mask, rng).sum() == 90 for _ in range(300)])
    assert 0.83 < large < 0.97


def test_each_control_point_sees_the_one_before_it():
    component = np.zeros((30, 30), bool)
    component[3:27, 3:8] = component[3:27, 22:27] = component[22:27, 3:27] = True  # a U
    for seed in range(20):
        points = strokes.control_points(component, 4, np.random.RandomState(seed))
        assert component[tuple(points.T)].all()
        for first, second in itertools.pairwise(points):
            assert component[tuple(strokes.line_pixels(first, second).T)].all()


def test_an_interior_scribble_of_a_convex_component_is_one_curve():
    component = np.zeros((40, 40), bool)
    component[5:35, 5:35] = True
    for seed in range(10):
        stroke = strokes.interior_stroke(component, np.random.RandomState(seed))
        assert number_of_parts(stroke) == 1 and not (stroke & ~component).any()


def test_a_boundary_scribble_lies_some_pixels_inside_and_is_a_seventh_of_the_contour_at_most():
    mask = crescent()
    depth = ndimage.distance_transform_edt(mask)
    lengths = []
    for seed in range(20):
        stroke = strokes.boundary_stroke(mask, np.random.RandomState(seed))
        assert number_of_parts(stroke) == 1
        # two to five pixels are eroded; the contour runs between pixels and is rounded to one of them
        assert depth[stroke].min() > 1 and depth[stroke].max() < 7
        lengths.append(stroke.sum())
    assert min(lengths) >= 3 and max(lengths) < 0.15 * 150
    assert not strokes.boundary_stroke(np.pad(np.ones((3, 3), bool), 3), np.random.RandomState(0)).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 5)])
def test_components_of_few_pixels_have_a_scribble(shape):
    mask = np.zeros((9, 9), bool)
    mask[3 : 3 + shape[0], 3 : 3 + shape[1]] = True
    stroke = strokes.bench_stroke(mask, np.random.RandomState(0))
    assert stroke.any() and not (stroke & ~mask).any()


@pytest.mark.parametrize("shape", [(1, 20), (20, 1), (1, 1)])
def test_a_slice_one_pixel_wide_has_a_scribble(shape):
    assert strokes.bench_stroke(np.ones(shape, bool), np.random.RandomState(0)).any()


def test_scribbles_of_the_benchmark_agree_with_the_official_draw_in_classes_slices_and_amount():
    with np.load(REPOSITORY / "tests" / "golden" / "data" / "scribble_generators.npz") as file:
        labels, official = file["labels"], file["scribblebench_scribble"]
    draws = [scribble_labels(labels, [100 * d + i for i in range(3)], 4, "bench", None) for d in range(10)]
    for index in range(len(labels)):
        for code in np.unique(labels[index]):
            amounts = [(draw[index] == code).sum() for draw in draws]
            assert min(amounts) > 0
            assert 0.4 < (official[index] == code).sum() / np.mean(amounts) < 2.5
        assert {*np.unique(official[index])} == {*np.unique(labels[index]), 4}


# --- points -----------------------------------------------------------------------------------------------------------


def test_the_center_is_the_deepest_voxel_in_mm():
    mask = np.zeros((9, 15, 15), bool)
    mask[1, 2:13, 2:13] = True  # a plate, one slice thick
    mask[1:8, 2:7, 2:7] = True  # on it a pillar
    # three slices of the pillar are equally deep; the plate draws the centroid down
    assert center_points(mask, (1, 1, 1)).tolist() == [[3, 4, 4]]
    assert center_points(mask, (20, 1, 1)).tolist() == [[1, 7, 7]]


def test_every_component_has_a_center_and_a_single_voxel_is_its_own():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[5, 6] = True
    mask[2:5, 1:4] = True
    assert sorted(center_points(mask, (1, 1)).tolist()) == [[0, 0], [3, 2], [5, 6]]
    assert center_points(np.ones((5, 7, 9), bool), (1, 1, 1)).tolist() == [[2, 3, 4]]
    assert center_points(np.zeros((4, 4), bool), (1, 1)).shape == (0, 2)


def test_extreme_points_are_the_outermost_voxels_nearest_to_the_centroid():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    assert extreme_points(mask, (1, 1)).tolist() == [[1, 4], [3, 4], [2, 2], [2, 6]]
    assert len(extreme_points(np.ones((1, 4, 4), bool), (999, 1, 1))) == 4  # no extremes along an axis of one voxel


def test_which_extreme_voxel_is_nearest_is_decided_in_mm():
    part = np.zeros((12, 8, 8), bool)
    part[2:11, 2:6, 1] = True
    part[2, 2, 4] = part[8, 5, 4] = True
    part[2, 2, 1:5] = part[8, 5, 1:5] = True
    last = {spacing: extreme_points(part, spacing)[-1].tolist() for spacing in ((1, 1, 1), (1, 50, 1))}
    centroid = np.argwhere(part).mean(axis=0)
    for spacing, found in last.items():
        distances = {v: ((np.subtract(v, centroid) * spacing) ** 2).sum() for v in ((2, 2, 4), (8, 5, 4))}
        assert tuple(found) == min(distances, key=distances.get)


def test_background_points_lie_opposite_the_middle_of_each_side_as_far_as_the_image_goes():
    mask = np.zeros((10, 12), bool)
    mask[2:5, 2:5] = True
    # 5 mm are two rows of 2.5 mm and five columns of 1 mm; the point to the left falls outside
    assert points_around(mask, (2.5, 1.0), 5.0).tolist() == [[0, 3], [6, 3], [3, 9]]
    assert points_around(mask, (30.0, 30.0), 5.0).tolist() == [[1, 3], [5, 3], [3, 1], [3, 5]]  # at least one voxel


def test_random_points_are_different_voxels_of_the_mask():
    mask = drawing("##.", ".##")
    points = random_points(mask, 3, np.random.RandomState(0))
    assert len({tuple(point) for point in points.tolist()}) == 3 and mask[tuple(points.T)].all()
    assert len(random_points(mask, 10, np.random.RandomState(0))) == 4
    assert random_points(mask & False, 3, np.random.RandomState(0)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(40, 50), (6, 40, 50)])
def test_random_points_are_drawn_from_the_list_of_all_voxels_without_making_it(shape, monkeypatch):
    mask = np.random.RandomState(1).random_sample(shape) < 0.7
    voxels = np.argwhere(mask)
    expected = voxels[np.random.RandomState(5).permutation(len(voxels))[:10]]
    monkeypatch.setattr(np, "argwhere", None)
    points = random_points(mask, 10, np.random.RandomState(5))
    assert points.tolist() == expected.tolist() and points.dtype == expected.dtype


def test_balls_end_with_the_mask_and_the_image_and_points_outside_the_mask_have_none():
    mask = drawing("####.", "####.", "####.")
    marked = balls(np.array([[0, 0], [1, 3], [2, 4]]), 1, mask)
    assert np.array_equal(marked, drawing("##.#.", "#.##.", "...#."))
    assert balls(np.array([[0, 0], [2, 4]]), 0, mask).sum() == 1
    assert balls(np.array([[2, 2, 2]]), 1, np.ones((5, 5, 5), bool)).sum() == 7


@pytest.mark.parametrize("shape", [(9,), (12, 17), (6, 9, 11)])
def test_balls_are_what_is_as_near_to_a_point(shape):
    rng = np.random.RandomState(0)
    mask = rng.rand(*shape) < 0.8
    points = random_points(mask, 3, rng)
    others = np.ones(shape, bool)
    others[tuple(points.T)] = False
    for radius in (0, 1, 3, 5, 40):
        expected = (ndimage.distance_transform_edt(others) <= radius) & mask
        np.testing.assert_array_equal(balls(points, radius, mask), expected)


def test_the_largest_radius_takes_no_memory_for_what_is_outside_of_the_image():
    mask = np.ones((40, 60, 60), bool)
    tracemalloc.start()
    assert balls(random_points(mask, 3, np.random.RandomState(0)), 100, mask).all()
    assert tracemalloc.get_traced_memory()[1] < 100 * mask.nbytes  # the indices of a ball along three axes: 700 times
    tracemalloc.stop()


def test_a_disk_at_a_centroid_outside_the_mask_is_replaced():
    rows, columns = np.indices((21, 21))
    radius = np.hypot(rows - 10, columns - 10)
    ring = (radius >= 5) & (radius < 9)
    assert centroid_disk(radius < 9, 4).sum() == 21  # 5 x 5 without its corners
    assert centroid_disk(ring, 4).sum() == 1 and (centroid_disk(ring, 4) & ring).any()
    assert np.array_equal(centroid_disk(ring, 4, if_outside="whole"), ring)
    assert not centroid_disk(np.zeros((5, 5), bool), 4).any()


def test_a_random_disk_lies_in_the_mask_and_an_eroded_seed_is_what_the_last_erosion_leaves():
    mask = crescent()
    for seed in range(5):
        stroke = random_disk(mask, 4, np.random.RandomState(seed))
        assert stroke.any() and not (stroke & ~mask).any() and stroke.sum() <= 21
    square = np.zeros((12, 12), bool)
    square[2:9, 2:9] = True
    assert np.argwhere(eroded_seed(square)).tolist() == [[5, 5]]
    assert eroded_seed(np.pad(np.ones((2, 2), bool), 3)).sum() == 4
    assert eroded_seed(np.pad(np.ones((31, 31), bool), 1)).sum() == 11 * 11  # ten erosions at most


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_are_tight_end_beyond_the_mask_and_grow_by_the_margin_up_to_the_border():
    mask = np.zeros((3, 8, 9), bool)
    mask[0, 1:3, 2:5] = mask[1, 2, 4] = mask[2, 6, 8] = True
    assert tight_box(mask[0]) == ((1, 2), (3, 5))
    assert tight_box(mask[0], 2) == ((0, 0), (5, 7))
    assert component_boxes(mask) == [((0, 1, 2), (2, 3, 5)), ((2, 6, 8), (3, 7, 9))]
    assert component_boxes(mask, (0, 1, 1))[1] == ((2, 5, 7), (3, 8, 9))
    assert slice_boxes(mask) == [((0, 1, 2), (1, 3, 5)), ((1, 2, 4), (2, 3, 5)), ((2, 6, 8), (3, 7, 9))]
    assert filled_boxes(component_boxes(mask), mask.shape).sum() == 2 * 2 * 3 + 1
    assert component_boxes(np.zeros((4, 4), bool)) == []


# --- a case -----------------------------------------------------------------------------------------------------------

IGNORE = 4
CLASSES = {"a": (1,), "b": (2,), "c": (3,)}


def dense_labels(kind: str) -> np.ndarray:
    """Label maps with codes 0 to 3."""
    if kind == "single voxels":
        labels = np.zeros((4, 20, 24), np.uint16)
        labels[0, 3, 3], labels[0, 3, 4], labels[1, 0, 0], labels[3, 19, 23] = 1, 2, 3, 1
        labels[2, 10:12, 10:12] = 2  # thinning leaves nothing of 2x2 pixels
        return labels
    if kind == "no background":
        labels = np.ones((3, 16, 16), np.uint16)
        labels[:, 8:] = 2
        labels[0, :4] = 0
        return labels
    rng = np.random.RandomState(3)
    shape = (1, 40, 52) if kind == "2d" else (5, 40, 52)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for code in (1, 2, 3):
        center = rng.uniform(10, 30, 2)
        labels[((y - center[0]) ** 2 + (x - 2 * code - center[1]) ** 2 + (4 * (z - shape[0] // 2)) ** 2) < 64] = code
    return labels


LABELS = ("2d", "3d", "single voxels", "no background")
RECIPES = [(kind, rule) for kind, rules in RULES.items() for rule in rules]


def make(labels, kind, rule, case="case", seed=0, axis=0, spacing=(8.0, 1.5, 1.0), **options):
    recipe = Recipe(kind, rule, {**RULES[kind][rule], **options}, axis, seed)
    classes = {"b": (2,)} if kind == "partial" else CLASSES
    return weaken(labels, case, spacing, recipe, IGNORE, classes)


@pytest.mark.parametrize("kind, rule", RECIPES)
@pytest.mark.parametrize("name", LABELS)
def test_what_is_annotated_is_true_and_something_is(kind, rule, name):
    labels = dense_labels(name)
    before = labels.copy()
    weak, boxes = make(labels, kind, rule)
    assert np.array_equal(labels, before)
    assert weak.shape == labels.shape and weak.dtype == np.uint16
    annotated = weak != IGNORE
    if kind == "partial":
        assert np.array_equal(weak, np.where(labels == 2, 2, 0))
        return
    assert np.array_equal(weak[annotated], labels[annotated])
    if kind == "boxes":
        assert set(boxes) == set(CLASSES)
        for class_name, (code,) in CLASSES.items():
            inside = filled_boxes(boxes[class_name], labels.shape)
            assert inside[labels == code].all() and not annotated[inside].any()
        everything = [box for found in boxes.values() for box in found]
        assert np.array_equal(annotated, ~filled_boxes(everything, labels.shape))
    else:
        assert annotated.any() and not boxes
    if kind == "points":
        assert set(np.unique(weak)) - {IGNORE} == set(np.unique(labels))


@pytest.mark.parametrize("rule", RULES["scribble"])
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("components", [None, 1])
def test_a_scribble_is_in_every_class_of_every_slice_and_leaves_most_unlabeled(rule, name, components):
    labels = dense_labels(name)
    weak, _ = make(labels, "scribble", rule, components=components)
    for dense, sparse in zip(labels, weak):
        assert set(np.unique(sparse)) - {IGNORE} == set(np.unique(dense))
    if name in ("2d", "3d"):
        assert (weak == IGNORE).mean() > 0.75


@pytest.mark.parametrize("kind, rule", RECIPES)
def test_a_case_has_the_same_weak_labels_every_time(kind, rule):
    labels = dense_labels("3d")
    assert np.array_equal(make(labels, kind, rule)[0], make(labels, kind, rule)[0])


@pytest.mark.parametrize(
    "kind, rule",
    [("scribble", "bench"), ("scribble", "cut"), ("scribble", "walk"), ("points", "center"), ("points", "random")],
)
def test_other_cases_and_other_seeds_have_other_draws(kind, rule):
    labels = dense_labels("3d")
    first = make(labels, kind, rule)[0]
    assert not np.array_equal(first, make(labels, kind, rule, case="another")[0])
    assert not np.array_equal(first, make(labels, kind, rule, seed=1)[0])


def test_a_slice_has_the_same_scribble_whatever_lies_behind_it():
    labels = dense_labels("3d")
    for rule in RULES["scribble"]:
        whole, cut = (make(part, "scribble", rule)[0] for part in (labels, labels[:3]))
        assert np.array_equal(whole[:3], cut)


def test_the_seed_is_the_checksum_of_the_case_plus_the_slice():
    assert seed_of("123456789") == 0xCBF43926  # the check value of crc32
    assert seed_of("123456789", 7) == 0xCBF43926 + 7
    assert 0 <= seed_of("123456789", 7, seed=5) < 2**32


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_counted_along_the_axis(axis):
    labels = dense_labels("3d")[1:4]
    turned = np.moveaxis(labels, 0, axis)
    spacing = np.insert([1.5, 1.0], axis, 8.0)
    for kind, rule in RECIPES:
        expected, boxes = make(labels, kind, rule)
        found, turned_boxes = make(turned, kind, rule, axis=axis, spacing=tuple(spacing))
        assert np.array_equal(np.moveaxis(found, axis, 0), expected)
        for name in boxes:
            assert np.array_equal(
                filled_boxes(turned_boxes[name], turned.shape),
                np.moveaxis(filled_boxes(boxes[name], labels.shape), 0, axis),
            )


def test_some_slices_stay_dense_and_the_fullest_is_one_of_them():
    labels = np.zeros((20, 6, 6), np.uint16)
    labels[4:9, 2:4, 2:4] = 1
    labels[7, 1:5, 1:5] = 2
    dense = {}
    for options in ({"fraction": 0.25}, {"fraction": 0.01}, {"every": 5}):
        weak, _ = make(labels, "slices", next(iter(options)), **options)
        kept = [i for i in range(20) if (weak[i] != IGNORE).all()]
        assert all((weak[i] == IGNORE).all() for i in range(20) if i not in kept)
        dense[str(options)] = kept
    fraction, single, every = dense.values()
    assert len(fraction) == 5 and 7 in fraction
    assert single == [7]
    assert every == [2, 7, 12, 17]


def test_boxes_of_a_region_hold_all_of_its_codes():
    labels = np.zeros((1, 10, 10), np.uint16)
    labels[0, 2:8, 2:8] = 1
    labels[0, 4:6, 4:6] = 2
    recipe = Recipe("boxes", "3d", {"margin": 0.0, "radius": None})
    weak, boxes = weaken(labels, "case", (1, 1, 1), recipe, 3, {"whole": (1, 2), "core": (2,)})
    assert boxes == {"whole": [((0, 2, 2), (1, 8, 8))], "core": [((0, 4, 4), (1, 6, 6))]}
    assert (weak == 3).sum() == 36


@pytest.mark.parametrize("rule, number", [("2d", 5), ("3d", 2)])
def test_boxes_may_have_a_seed_in_each_object(rule, number):
    labels = np.zeros((5, 20, 20), np.uint16)
    labels[1:4, 2:9, 2:9] = 1
    labels[2:4, 12:17, 11:16] = 2
    recipe = Recipe("boxes", rule, {"margin": 0.0, "radius": 0})
    classes = {"a": (1,), "b": (2,)}
    weak, boxes = weaken(labels, "case", (5.0, 1.0, 1.0), recipe, IGNORE, classes)
    seeds = (weak > 0) & (weak != IGNORE)
    assert seeds.sum() == number == sum(map(len, boxes.values()))
    assert np.array_equal(weak[seeds], labels[seeds])
    assert rule == "3d" or (weak[2, 5, 5], weak[2, 14, 13]) == (1, 2)
    without, _ = weaken(
        labels, "case", (5.0, 1.0, 1.0), Recipe("boxes", rule, {"margin": 0.0, "radius": None}), 4, classes
    )
    assert np.array_equal(np.where(seeds, IGNORE, weak), without)
    wider, _ = weaken(labels, "case", (5.0, 1.0, 1.0), Recipe("boxes", rule, {"margin": 0.0, "radius": 1}), 4, classes)
    if rule == "2d":
        assert ((wider > 0) & (wider != IGNORE)).sum() == 5 * number  # a pixel and its four neighbors


def test_the_margin_of_boxes_is_in_mm():
    labels = np.zeros((9, 20, 20), np.uint16)
    labels[4, 8:12, 8:12] = 1
    _, boxes = make(labels, "boxes", "3d", margin=6.0, spacing=(6.0, 3.0, 1.0))
    assert boxes["a"] == [((3, 6, 2), (6, 14, 18))]
    _, boxes = make(labels, "boxes", "2d", margin=6.0, spacing=(6.0, 3.0, 1.0))
    assert boxes["a"] == [((4, 6, 2), (5, 14, 18))]


def test_patients_are_dealt_out_evenly_within_each_stratum():
    patients = [f"p{i}" for i in range(12)]
    strata = {patient: int(patient[1:]) < 4 for patient in patients}
    source = sources_of_patients(patients, 2, strata=strata)
    assert sorted(source.values()) == [0] * 6 + [1] * 6
    assert sorted(source[f"p{i}"] for i in range(4)) == [0, 0, 1, 1]
    assert source == sources_of_patients(patients[::-1], 2, strata=strata)
    assert source != sources_of_patients(patients, 2, seed=1, strata=strata)


@pytest.mark.parametrize(
    "kind, rule, option",
    [
        ("boxes", "2d", "seed"),
        ("boxes", "3d", "seed"),
        ("boxes", "3d", "axis"),
        ("scribble", "skeleton", "seed"),
        ("partial", None, "axis"),
    ],
)
def test_options_that_change_nothing_are_refused(kind, rule, option):
    with pytest.raises(UserError, match=f"--{option} does nothing for --kind {kind}"):
        make_recipe(kind, rule, **{option: 1})
    labels = np.zeros((4, 20, 20), np.uint16)
    labels[1:3, 4:12, 6:15] = 1
    classes = {"object": [1]}
    recipe = make_recipe(kind, rule)
    plain, other = (
        weaken(labels, "case", (1, 1, 1), r, 2, classes)[0] for r in (recipe, replace(recipe, **{option: 1}))
    )
    np.testing.assert_array_equal(plain, other)
    assert make_recipe("slices", None, {"fraction": 0.5}, axis=1, seed=2).seed == 2


def test_every_slice_is_not_drawn():
    with pytest.raises(UserError, match="--seed does nothing for --kind slices with the rule every"):
        make_recipe("slices", None, {"every": 3}, seed=0)
