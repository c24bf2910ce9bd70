"""Overlap and surface distance of two segmentations.

Definitions, those of `medpy.metric.binary`, which the semi-supervised literature reports. P is the predicted mask, R the
reference mask, S(X) the surface of X: its voxels that do not survive one erosion with the face neighbors (connectivity 1;
what lies outside the image counts as background). d(P, R) are the distances of all voxels of S(P) to the nearest voxel of S(R).

    Dice    = 2 |P n R| / (|P| + |R|)          Jaccard = |P n R| / |P u R|
    95HD    = 95th percentile of d(P, R) and d(R, P) pooled          (medpy `hd95`)
    ASD     = mean d(P, R), directed: prediction to reference        (medpy `asd(prediction, reference)`)
    ASSD    = mean of d(P, R) and d(R, P) pooled                     (medpy 0.5 `assd`; 0.4 averaged the two means)

MONAI's HausdorffDistanceMetric takes the larger of the two directed 95th percentiles instead of pooling. Distances are given
in mm and, as the literature reports them, in voxels, i.e. with spacing 1.

An empty mask: Dice and Jaccard are NaN if both are empty (nnU-Net's convention) and 0 if one is; distances are NaN in both
cases. The public ACDC evaluation code counts a distance of 0 when nothing was predicted, which flatters a method that misses
a structure; here such a case is left out of the mean of the distances and counted beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from nnunet_ssl.data.geometry import has_spacing
from nnunet_ssl.data.label_values import other_codes
from nnunet_ssl.data.raw_dataset import read_label_map
from nnunet_ssl.errors import UserError, some

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

# (metric, unit) in the order of every table. Overlaps are fractions here; tables show them in percent
OVERLAPS = (("Dice", "%"), ("Jaccard", "%"))
DISTANCES = tuple((metric, unit) for unit in ("voxel", "mm") for metric in ("95HD", "ASD", "ASSD"))
METRICS = OVERLAPS + DISTANCES

NOT_EMPTY, BOTH_EMPTY, PREDICTION_EMPTY, REFERENCE_EMPTY = "", "both", "prediction", "reference"
NOT_ANNOTATED = "not annotated"  # the reference says nothing about the class, so that nothing is measured

# headers are stored as float32, so a copy of a header is equal to about this (relative to the spacing)
_GEOMETRY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ClassResult:
    """What one class of one case gives. `values[(metric, unit)]`; NaN where it is undefined. `empty`: which mask is empty, or
    that the class is not annotated in the reference (partial labels). `ignored`: share of the voxels with the ignore label."""

    values: Mapping[tuple[str, str], float]
    empty: str
    ignored: float = 0.0


def not_annotated() -> ClassResult:
    """The result of a class that the reference of a case does not annotate: no value."""
    return ClassResult(dict.fromkeys(METRICS, float("nan")), NOT_ANNOTATED)


def label_mask(segmentation: np.ndarray, label: int | Sequence[int]) -> np.ndarray:
    """Voxels of a label, or of any label of a region; boolean, shape of `segmentation`."""
    return np.isin(segmentation, np.atleast_1d(label))


def overlap(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Dice and Jaccard of two boolean masks of equal shape, as fractions; NaN if both are empty."""
    intersection = np.count_nonzero(prediction & reference)
    sizes = np.count_nonzero(prediction) + np.count_nonzero(reference)
    if sizes == 0:
        return float("nan"), float("nan")
    return 2 * intersection / sizes, intersection / (sizes - intersection)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a boolean mask that one erosion with the face neighbors removes."""
    return mask & ~binary_erosion(mask, generate_binary_structure(mask.ndim, 1))


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every surface voxel to the other surface.

    Args:
        prediction, reference: boolean masks `(*spatial)` of equal shape, neither of them empty.
        spacing: mm along every axis; None gives distances in voxels.

    Returns:
        d(P, R) and d(R, P), one value per voxel of S(P) and of S(R).

    Raises:
        ValueError: shapes differ or a mask is empty.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    if not prediction.any() or not reference.any():
        raise ValueError("the distance to an empty mask is not defined")
    # only surface voxels are measured from and to, and none lies outside this box, so that it changes no number
    box = _bounding_box(prediction | reference)
    prediction_surface, reference_surface = surface(prediction[box]), surface(reference[box])
    to_reference = distance_transform_edt(~reference_surface, sampling=spacing)[prediction_surface]
    to_prediction = distance_transform_edt(~prediction_surface, sampling=spacing)[reference_surface]
    return to_reference, to_prediction


def distance_metrics(to_reference: np.ndarray, to_prediction: np.ndarray) -> dict[str, float]:
    """95HD, ASD and ASSD (see the top of the file) from the distances d(P, R) and d(R, P)."""
    pooled = np.concatenate((to_reference, to_prediction))
    return {
        "95HD": float(np.percentile(pooled, 95)),
        "ASD": float(to_reference.mean()),
        "ASSD": float(pooled.mean()),
    }


def evaluate_masks(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> ClassResult:
    """All metrics of two boolean masks `(*spatial)`; `spacing` in mm along every axis."""
    values = dict.fromkeys(METRICS, float("nan"))
    values["Dice", "%"], values["Jaccard", "%"] = overlap(prediction, reference)
    empty = {
        (True, True): NOT_EMPTY,
        (False, True): PREDICTION_EMPTY,
        (True, False): REFERENCE_EMPTY,
        (False, False): BOTH_EMPTY,
    }[bool(prediction.any()), bool(reference.any())]
    if empty == NOT_EMPTY:
        for unit, sampling in (("voxel", None), ("mm", spacing)):
            distances = distance_metrics(*surface_distances(prediction, reference, sampling))
            values.update({(metric, unit): value for metric, value in distances.items()})
    return ClassResult(values, empty)


def evaluate_segmentation(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    classes: Mapping[str, int | Sequence[int]],
    ignore_label: int | None = None,
) -> dict[str, ClassResult]:
    """All metrics of every class.

    Args:
        prediction, reference: label maps `(*spatial)`. Axes of length 1 are dropped: an image of one slice is measured in 2D.
            As a volume of one slice it would consist of surface only.
        spacing: mm along every axis.
        classes: name -> label, or labels of a region.
        ignore_label: voxels with this label in the reference belong to no mask, as in nnU-Net's evaluation.

    Returns:
        name of the class -> its result.
    """
    kept = [axis for axis, length in enumerate(reference.shape) if length > 1] or [0]
    dropped = tuple(axis for axis in range(reference.ndim) if axis not in kept)
    prediction, reference = prediction.squeeze(dropped), reference.squeeze(dropped)
    spacing = [spacing[axis] for axis in kept]
    valid = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    ignored = float(1 - valid.mean())
    return {
        name: replace(
            evaluate_masks(label_mask(prediction, label) & valid, label_mask(reference, label) & valid, spacing),
            ignored=ignored,
        )
        for name, label in classes.items()
    }


def evaluate_case(
    prediction_file: str | Path,
    reference_file: str | Path,
    classes: Mapping[str, int | Sequence[int]],
    ignore_label: int | None,
    reader_writer: BaseReaderWriter,
    repair: str,
    codes: Collection[int] | None = None,
) -> dict[str, ClassResult]:
    """Read two segmentation files with nnU-Net's reader and evaluate them.

    Args:
        repair: how the user makes the prediction anew; ends the error messages.
        codes: numbers that the reference may hold, the ignore label included; None: any.

    Raises:
        UserError: a file cannot be read, the two lie on different grids, or the reference holds other numbers.
    """
    prediction, reference, spacing = read_pair(prediction_file, reference_file, reader_writer, repair)
    # a mask of 0 and 255 has nothing of class 1, and every prediction would miss it
    if codes is not None and (unknown := other_codes(reference, codes)):
        raise UserError(
            f"{reference_file}: holds {some(unknown)}; allowed in a reference are {some(map(str, sorted(codes)))}. Correct the "
            "label file, and preprocess again where it was copied from labelsTr."
        )
    return evaluate_segmentation(prediction, reference, spacing, classes, ignore_label)


def read_pair(
    prediction_file: str | Path, reference_file: str | Path, reader_writer: BaseReaderWriter, repair: str
) -> tuple[np.ndarray, np.ndarray, Sequence[float]]:
    """Prediction and reference `(*spatial)`, and their spacing in mm, as nnU-Net's reader gives them.

    Args:
        repair: how the user makes the prediction anew; ends the error messages.

    Raises:
        UserError: a file cannot be read, or the two lie on different grids.
    """
    prediction, prediction_properties = _read(prediction_file, reader_writer, repair)
    reference, reference_properties = _read(reference_file, reader_writer, "Put the label file there again.")
    if not has_spacing(reference_file, type(reader_writer)):
        reference_properties |= {"spacing": prediction_properties["spacing"]}
    difference = _geometry_difference(prediction, prediction_properties, reference, reference_properties)
    if difference:
        raise UserError(
            f"{prediction_file} and {reference_file} do not lie on the same grid: {difference}. A prediction has the "
            f"geometry of its image, so either the reference differs from the image (nnUNetv2_plan_and_preprocess "
            f"--verify_dataset_integrity names such cases; correct the label file and preprocess again) or the "
            f"prediction is of another image: {repair}"
        )
    return prediction, reference, reference_properties["spacing"]


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true voxels of a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1))
    return tuple(box)


def _read(file: str | Path, reader_writer: BaseReaderWriter, repair: str) -> tuple[np.ndarray, dict]:
    """Label map `(*spatial)` and nnU-Net's properties."""
    try:
        segmentation, properties = read_label_map(Path(file).name, str(file), type(reader_writer))
    except UserError as error:
        raise UserError(f"{error} {repair}") from error
    return segmentation[0], properties


def _geometry_difference(prediction: np.ndarray, properties: dict, reference: np.ndarray, expected: dict) -> str:
    """In words what differs between two files as nnU-Net's reader gives them; empty if nothing does."""
    if prediction.shape != reference.shape:
        return f"shape {prediction.shape} against {reference.shape}"
    spacing = np.asarray(expected["spacing"], float)
    if not _alike(properties["spacing"], spacing, _GEOMETRY_TOLERANCE, 0):
        return f"spacing {_rounded(properties['spacing'])} against {_rounded(spacing)} mm"
    if "sitk_stuff" in expected:
        found, wanted = properties["sitk_stuff"], expected["sitk_stuff"]
        tolerance = {"origin": 10 * _GEOMETRY_TOLERANCE * spacing.min(), "direction": _GEOMETRY_TOLERANCE}
        for key, allowed in tolerance.items():
            if not _alike(found[key], wanted[key], 1e-5, allowed):
                return f"{key} {_rounded(found[key])} against {_rounded(wanted[key])}"
    if "nibabel_stuff" in expected:
        found, wanted = (p["nibabel_stuff"]["original_affine"] for p in (properties, expected))
        if not _alike(found, wanted, 1e-5, 10 * _GEOMETRY_TOLERANCE * spacing.min()):
            return f"affine {_rounded(np.ravel(found))} against {_rounded(np.ravel(wanted))}"
    return ""


def _alike(one: Sequence[float], other: Sequence[float], relative: float, absolute: float) -> bool:
    return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=relative, atol=absolute))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
