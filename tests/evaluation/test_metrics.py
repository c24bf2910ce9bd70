"""The metrics against medpy, MONAI and numbers one can check by hand."""

from __future__ import annotations

import medpy.metric.binary as medpy
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import gaussian_filter

from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation.metrics import (
    METRICS,
    distance_metrics,
    evaluate_case,
    evaluate_masks,
    evaluate_segmentation,
    surface_distances,
)

SPACINGS = {2: [(1.0, 1.0), (0.7, 2.3)], 3: [(1.0, 1.0, 1.0), (5.0, 1.37, 0.8)]}
SHAPES = {2: (37, 44), 3: (14, 25, 31)}
CLASSES = {"one": 1, "two": 2, "three": 3}


def blobs(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """Label map with labels 0 to 3 in ragged components, which also touch the borders of the image."""
    noise = np.stack([gaussian_filter(rng.standard_normal(SHAPES[dimension]), 2.5, mode="wrap") for _ in CLASSES])
    return np.where((noise > 0.25 * noise.std()).any(0), noise.argmax(0) + 1, 0)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("anisotropic", [False, True])
def test_all_metrics_equal_medpy_on_random_blobs(dimension, seed, anisotropic):
    rng = np.random.default_rng(seed)
    prediction, reference = blobs(rng, dimension), blobs(rng, dimension)
    spacing = SPACINGS[dimension][anisotropic]
    results = evaluate_segmentation(prediction, reference, spacing, CLASSES)
    for name, label in CLASSES.items():
        p, r = prediction == label, reference == label
        assert p.any() and r.any()
        expected = {("Dice", "%"): medpy.dc(p, r), ("Jaccard", "%"): medpy.jc(p, r)}
        for unit, sampling in (("voxel", None), ("mm", spacing)):
            expected["95HD", unit] = medpy.hd95(p, r, sampling)
            expected["ASD", unit] = medpy.asd(p, r, sampling)
            expected["ASSD", unit] = medpy.assd(p, r, sampling)
        assert set(expected) == set(METRICS)
        for key, value in expected.items():
            assert results[name].values[key] == pytest.approx(value, rel=1e-12), (name, key)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_directed_distances_equal_monai_whose_95hd_is_the_larger_directed_percentile(dimension, seed):
    rng = np.random.default_rng(100 + seed)
    p, r = blobs(rng, dimension) == 1, blobs(rng, dimension) == 1
    spacing = SPACINGS[dimension][1]
    one_hot = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (p, r)]
    options = {"include_background": True, "spacing": spacing}

    to_reference, to_prediction = surface_distances(p, r, spacing)
    percentiles = [np.percentile(distances, 95) for distances in (to_reference, to_prediction)]
    for (prediction, reference), percentile, distances in (
        (one_hot, percentiles[0], to_reference),
        (one_hot[::-1], percentiles[1], to_prediction),
    ):
        monai_percentile = compute_hausdorff_distance(prediction, reference, percentile=95, directed=True, **options)
        assert monai_percentile.item() == pytest.approx(percentile, rel=1e-5)
        monai_mean = compute_average_surface_distance(prediction, reference, symmetric=False, **options)
        assert monai_mean.item() == pytest.approx(distances.mean(), rel=1e-5)
    monai_assd = compute_average_surface_distance(*one_hot, symmetric=True, **options).item()
    assert monai_assd == pytest.approx(distance_metrics(to_reference, to_prediction)["ASSD"], rel=1e-5)
    monai_95hd = compute_hausdorff_distance(*one_hot, percentile=95, **options).item()
    assert monai_95hd == pytest.approx(max(percentiles), rel=1e-5)
    assert distance_metrics(to_reference, to_prediction)["95HD"] <= max(percentiles)


def test_a_square_shifted_by_three_columns_has_the_distances_found_by_hand():
    prediction, reference = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
    reference[2:4, 2:4] = True  # 2 x 2: all of it is surface
    prediction[2:4, 5:7] = True  # every column is 3 away from its twin, the nearest reference column is 2 or 3 away
    result = evaluate_masks(prediction, reference, spacing=(1.0, 0.5))
    assert result.values["Dice", "%"] == 0 and result.values["Jaccard", "%"] == 0
    assert result.values["ASD", "voxel"] == 2.5 and result.values["ASSD", "voxel"] == 2.5
    assert result.values["95HD", "voxel"] == 3 and result.values["95HD", "mm"] == 1.5


def test_asd_is_directed_from_the_prediction_to_the_reference():
    prediction, reference = np.zeros((9, 20), bool), np.zeros((9, 20), bool)
    prediction[4, 2] = True
    reference[4, [2, 12]] = True  # the prediction misses a far voxel: nothing that was predicted is wrong
    values = evaluate_masks(prediction, reference, (1.0, 1.0)).values
    assert values["ASD", "mm"] == 0
    assert values["ASSD", "mm"] == pytest.approx(10 / 3)  # of 0, 0 and 10


def test_mm_scale_with_the_spacing_and_voxels_do_not():
    rng = np.random.default_rng(5)
    p, r = blobs(rng, 3) == 2, blobs(rng, 3) == 2
    single, double = (evaluate_masks(p, r, np.multiply(factor, (2.0, 1.0, 0.5))).values for factor in (1, 2))
    for metric in ("95HD", "ASD", "ASSD"):
        assert double[metric, "mm"] == pytest.approx(2 * single[metric, "mm"])
        assert double[metric, "voxel"] == single[metric, "voxel"]


@pytest.mark.parametrize(
    ("prediction_empty", "reference_empty", "overlap", "empty"),
    [(True, True, float("nan"), "both"), (True, False, 0.0, "prediction"), (False, True, 0.0, "reference")],
)
def test_empty_masks_have_no_distance_and_dice_zero_unless_both_are_empty(
    prediction_empty, reference_empty, overlap, empty
):
    mask = np.zeros((4, 5, 6), bool)
    full = mask.copy()
    full[1:3, 2:4, 2:5] = True
    result = evaluate_masks(mask if prediction_empty else full, mask if reference_empty else full, (1, 1, 1))
    assert result.empty == empty
    for key, value in result.values.items():
        expected = overlap if key[1] == "%" else float("nan")
        assert value == pytest.approx(expected, nan_ok=True), key


def test_surface_distances_refuse_an_empty_mask_and_different_shapes():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="empty"):
        surface_distances(mask, np.zeros_like(mask))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        surface_distances(mask, np.ones((3, 4), bool))


def test_voxels_with_the_ignore_label_in_the_reference_count_for_nothing():
    reference, prediction = np.zeros((20, 20), int), np.zeros((20, 20), int)
    reference[5:10, 5:10] = prediction[5:10, 5:10] = 1
    reference[:, 12:] = 9
    prediction[2:18, 14:18] = 1  # wrong, but where nobody knows
    ignored = evaluate_segmentation(prediction, reference, (1, 1), {"one": 1}, ignore_label=9)["one"]
    assert ignored.values["Dice", "%"] == 1 and ignored.values["95HD", "mm"] == 0
    counted = evaluate_segmentation(prediction, reference, (1, 1), {"one": 1})["one"]
    assert counted.values["Dice", "%"] < 0.5 and counted.values["95HD", "mm"] > 5


def test_a_region_is_the_union_of_its_labels():
    rng = np.random.default_rng(1)
    prediction, reference = blobs(rng, 3), blobs(rng, 3)
    region = evaluate_segmentation(prediction, reference, (1, 1, 1), {"whole": (1, 3)})["whole"]
    union = evaluate_masks(np.isin(prediction, (1, 3)), np.isin(reference, (1, 3)), (1, 1, 1))
    assert region == union


def test_an_image_of_one_slice_is_measured_in_2d():
    rng = np.random.default_rng(2)
    prediction, reference = blobs(rng, 2), blobs(rng, 2)
    flat = evaluate_segmentation(prediction, reference, (0.5, 2.0), CLASSES)
    one_slice = evaluate_segmentation(prediction[None], reference[None], (999.0, 0.5, 2.0), CLASSES)
    assert one_slice == flat


def write_segmentation(file, array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=None):
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(file))


def test_the_spacing_of_a_file_is_applied_to_the_right_axes(tmp_path):
    reference, prediction = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    reference[4, 4, 2] = prediction[4, 4, 5] = 1  # apart along x, the last axis of the array
    for name, array in (("reference", reference), ("prediction", prediction)):
        write_segmentation(tmp_path / f"{name}.nii.gz", array, spacing=(0.5, 2.0, 7.0))
    files = tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"
    values = evaluate_case(*files, {"one": 1}, None, SimpleITKIO(), "")["one"].values
    assert values["95HD", "mm"] == pytest.approx(1.5) and values["95HD", "voxel"] == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"array": np.zeros((4, 5, 7))}, "shape"),
        ({"spacing": (1.0, 1.0, 1.2)}, "spacing"),
        ({"origin": (0.0, 3.0, 0.0)}, "origin"),
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, "direction"),
    ],
)
def test_files_on_different_grids_are_refused_and_the_difference_is_named(tmp_path, change, word):
    files = tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"
    write_segmentation(files[1], np.zeros((4, 5, 6)))
    write_segmentation(files[0], **{"array": np.zeros((4, 5, 6)), **change})
    with pytest.raises(UserError, match=f"(?s)prediction.nii.gz.*reference.nii.gz.*{word}.*PREDICT AGAIN"):
        evaluate_case(*files, {"one": 1}, None, SimpleITKIO(), "PREDICT AGAIN")


def test_a_corrupt_file_is_named(tmp_path):
    files = tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"
    write_segmentation(files[1], np.zeros((4, 5, 6)))
    files[0].write_bytes(b"not a nifti file")
    with pytest.raises(UserError, match=r"prediction\.nii\.gz .* cannot be read"):
        evaluate_case(*files, {"one": 1}, None, SimpleITKIO(), "")


@pytest.mark.parametrize("truncated", [0, 1])
def test_a_truncated_file_is_named(tmp_path, truncated):
    """SimpleITK alone reads it, with background in place of what is missing."""
    files = tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"
    for file in files:
        write_segmentation(file, np.random.default_rng(0).integers(0, 2, (8, 20, 20)))
    content = files[truncated].read_bytes()
    files[truncated].write_bytes(content[: len(content) * 2 // 3])
    assert SimpleITKIO().read_seg(str(files[truncated]))[0].shape == (1, 8, 20, 20)
    repair = ["PREDICT AGAIN", "label file"][truncated]
    with pytest.raises(UserError, match=rf"{files[truncated].name} .*truncated or damaged.*{repair}"):
        evaluate_case(*files, {"one": 1}, None, SimpleITKIO(), "PREDICT AGAIN")
