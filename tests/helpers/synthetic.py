"""A small synthetic data set with raw and preprocessed folders, made in a second and without worker processes.

As a command, `python -m tests.helpers.synthetic OUT_DIR` writes Dataset991_Synthetic and prints the three `export` lines that
nnU-Net's commands need.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import find_objects, gaussian_filter, label

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, hash_case
from nnunet_ssl.preprocessing.preprocessed import manifest_file, preprocessing_hash, unlabeled_folder
from nnunet_ssl.preprocessing.rounds import Round, RoundCase, preprocess_round, uncertain_code
from nnunet_ssl.preprocessing.unpaired_masks import preprocess_masks

LABELS = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2}
SHAPE = (20, 40, 36)  # voxels (z, y, x)


def _architecture(dimension: int, residual: bool) -> dict:
    kind = f"{dimension}d"
    features = [8, 12, 16]
    kwargs = {
        "n_stages": 3,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{kind}",
        "kernel_sizes": [[3] * dimension] * 3,
        "strides": [[1] * dimension, [2] * dimension, [2] * dimension],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{kind}",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    kwargs["n_blocks_per_stage" if residual else "n_conv_per_stage"] = [1, 1, 1]
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _configuration(dimension: int, batch_size: int, residual: bool, channels: int, mask_norm: bool) -> dict:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{dimension}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": [24, 24] if dimension == 2 else [12, 24, 24],
        "median_image_size_in_voxels": list(SHAPE[-dimension:]),
        "spacing": [1.0] * dimension,
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [mask_norm] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": _architecture(dimension, residual),
        "batch_dice": dimension == 2,
    }


def make_plans(
    dataset_name: str, channels: int = 1, batch_size: int = 2, residual: bool = False, mask_norm=False
) -> dict:
    """Plans as nnU-Net writes them, with a network small enough for a CPU: `2d`, `3d_fullres` and a cascade."""
    configurations = {
        "2d": _configuration(2, batch_size, residual, channels, mask_norm),
        "3d_fullres": _configuration(3, batch_size, residual, channels, mask_norm),
    }
    configurations["3d_lowres"] = dict(configurations["3d_fullres"], next_stage="3d_cascade_fullres")
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    properties = {
        "max": 4.0,
        "mean": 0.0,
        "median": 0.0,
        "min": -4.0,
        "percentile_00_5": -3.0,
        "percentile_99_5": 3.0,
        "std": 1.0,
    }
    return {
        "dataset_name": dataset_name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": list(SHAPE),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): properties for c in range(channels)},
    }


def _write(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def make_dataset(
    out: Path,
    labeled: int = 4,
    unlabeled: int = 3,
    test: int = 1,
    *,
    dataset_id: int = 991,
    regions: bool = False,
    ignore: bool = False,
    dense: bool = False,
    boxes: bool = False,
    size_bounds: bool = False,
    masks: int = 0,
    partial: bool = False,
    pseudo_labels: bool = False,
    channels: int = 1,
    residual: bool = False,
    batch_size: int = 2,
    mask_norm: bool = False,
    ignored_surroundings: bool = False,
    configurations: tuple[str, ...] = ("2d", "3d_fullres"),
    change_plans: Callable[[dict], None] | None = None,
    seed: int = 0,
) -> str:
    """Write raw and preprocessed data below `out`; returns the data set's name.

    Fold 0 trains on all labeled cases but the last and validates on the last. With `dense` the raw data set has dense labels
    beside the sparse ones (`ignore`); they are not preprocessed. With `boxes` the sparse labels are boxes of one class, with
    seeds; with `size_bounds` dataset.json has bounds that a new network does not keep. `masks`: number of dense masks of other
    patients, preprocessed. With `partial` the first case has label 1 (with regions: the whole) annotated only, the second label 2
    only, and dataset.json says so. With `ignored_surroundings` sparse labels ignore
    what is empty around an object (`mask_norm`). With `pseudo_labels` there is a finished round of them, `round1`, with
    undecided voxels.
    """
    name = f"Dataset{dataset_id:03d}_Synthetic"
    raw, preprocessed = out / "nnUNet_raw" / name, out / "nnUNet_preprocessed" / name
    (out / "nnUNet_results").mkdir(parents=True, exist_ok=True)
    preprocessed.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    labels = dict(REGIONS if regions else LABELS)
    if ignore:
        labels["ignore"] = 3
    dataset_json = {
        "channel_names": {str(c): f"MR{c}" for c in range(channels)},
        "labels": labels,
        "numTraining": labeled,
        "file_ending": ".nii.gz",
    }
    if regions:
        dataset_json["regions_class_order"] = [1, 2]
    if size_bounds:
        dataset_json["size_bounds"] = {key: {"mm2": [1, 10], "mm3": [1, 50]} for key in list(labels)[1:3]}
    if partial:
        first, second = [name for name in labels if name not in ("background", "ignore")]
        dataset_json["partial_labels"] = {
            "sources": {"one": {"prefix": "case_00", "annotated": [first]}},
            "cases": {"case_01": [second]},
        }
    plans = make_plans(name, channels, batch_size, residual, mask_norm)
    if change_plans is not None:
        change_plans(plans)
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    (preprocessed / "dataset_fingerprint.json").write_text("{}")

    pseudo = {}
    cases = UnlabeledList({}, {}, {}, {}, {})
    places = [("imagesTr", cases.labeled, "case", labeled), ("imagesUn", cases.unlabeled, "free", unlabeled)]
    for folder, records, prefix, count in [*places, ("imagesTs", cases.test, "test", test)]:
        for i in range(count):
            case = f"{prefix}_{i:02d}"
            segmentation, images = _phantom(rng, channels, mask_norm)
            files = [raw / folder / f"{case}_{c:04d}.nii.gz" for c in range(channels)]
            for image, file in zip(images, files, strict=True):
                _write(image, file)
            if dense and folder == "imagesTr":
                _write(segmentation, raw / "labelsTr_dense" / f"{case}.nii.gz")
            if partial and case in ("case_00", "case_01"):
                segmentation = _partially_annotated(segmentation, case, regions)
            if boxes and folder == "imagesTr":
                segmentation = _boxes(rng, segmentation == 2)
            elif ignore and folder == "imagesTr":
                hidden = rng.random(segmentation.shape) < 0.6
                if mask_norm and not ignored_surroundings:  # else nnU-Net does not know where images are empty
                    hidden &= np.any(images, axis=0)
                segmentation = np.where(hidden, 3, segmentation).astype(np.uint8)
            if folder == "imagesUn":
                pseudo[case] = segmentation
            else:
                _write(segmentation, raw / folder.replace("images", "labels") / f"{case}.nii.gz")
            if folder == "imagesTr":
                _write(segmentation, preprocessed / "gt_segmentations" / f"{case}.nii.gz")
            records[case] = CaseRecord(source=f"{case}.nii.gz", sha256=hash_case([str(f) for f in files]))

    ids = sorted(cases.labeled)
    splits = json.dumps([{"train": ids[:-1], "val": ids[-1:]}])
    for folder in (raw, preprocessed):
        (folder / "splits_final.json").write_text(splits)
        cases.save(folder / "unlabeled.json")

    manager = PlansManager(plans)
    for configuration in configurations:
        _preprocess(
            raw, preprocessed, manager, manager.get_configuration(configuration), configuration, dataset_json, cases
        )
    if pseudo_labels:
        add_to_round(out, name, pseudo, configurations, rng)
    for i in range(masks):
        _write(_phantom(rng, 1, False)[0], raw / "masksUn" / f"mask_{i:02d}.nii.gz")
    if masks:
        with _quiet_with_folders(out):
            preprocess_masks(
                RawDataset.open(name), "nnUNetPlans", configurations, [1] * len(configurations), show_progress=False
            )
    return name


@contextlib.contextmanager
def _quiet_with_folders(out: Path) -> Iterator[None]:
    folders = {name: str(out / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    with mock.patch.dict(os.environ, folders), contextlib.redirect_stdout(io.StringIO()):
        yield


def add_to_round(
    out: Path,
    name: str,
    labels: Mapping[str, np.ndarray],
    configurations: Sequence[str] = ("2d",),
    rng: np.random.Generator | None = None,
    round_name: str = "round1",
    finished: str = "2026-01-01T00:00:00+00:00",
) -> None:
    """Label maps as a finished round of pseudo labels, or as further cases of it; every tenth voxel is undecided."""
    rng = rng or np.random.default_rng(0)
    with _quiet_with_folders(out):
        raw = RawDataset.open(name)
        records = UnlabeledList.load(raw.preprocessed / "unlabeled.json")
        folder = raw.preprocessed / "pseudo_labels" / round_name
        ignore = uncertain_code(raw.dataset_json)
        made = Round.load(folder) if folder.is_dir() else Round(folder, {}, ignore)
        for case, segmentation in labels.items():
            file = made.label_file(case, raw.file_ending)
            _write(np.where(rng.random(segmentation.shape) < 0.1, ignore, segmentation).astype(np.uint8), file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            image = {**records.labeled, **records.unlabeled}[case].sha256
            made.cases[case] = RoundCase(True, "", digest, image)
        made.finished = finished
        made.save()
        for configuration in configurations:
            preprocess_round(raw, made, "nnUNetPlans", configuration, 1, show_progress=False)


def _partially_annotated(segmentation: np.ndarray, case: str, regions: bool) -> np.ndarray:
    if case == "case_01":
        return np.where(segmentation == 2, segmentation, 0)
    return np.minimum(segmentation, 1) if regions else np.where(segmentation == 1, segmentation, 0)


def _phantom(rng: np.random.Generator, channels: int, mask_norm: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    smooth = gaussian_filter(rng.normal(size=SHAPE), 4)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in SHAPE], indexing="ij"))
    radius = np.sqrt((grid**2).sum(0)) - 2 * smooth
    segmentation = ((radius < 0.7).astype(np.uint8) + (radius < 0.35)).astype(np.uint8)
    images = []
    for c in range(channels):
        image = segmentation * (1.0 + 0.3 * c) + 0.4 * rng.normal(size=SHAPE)
        if mask_norm:
            image[radius > 0.9] = 0
        images.append(image.astype(np.float32))
    return segmentation, images


def _boxes(rng: np.random.Generator, object_mask: np.ndarray) -> np.ndarray:
    """Label map of the object's boxes: 3, the ignore label, inside, 1 at some voxels of the object."""
    segmentation = np.zeros(object_mask.shape, np.uint8)
    for where in find_objects(label(object_mask)[0]):
        segmentation[where] = 3
    segmentation[object_mask & (rng.random(object_mask.shape) < 0.1)] = 1
    return segmentation


def _preprocess(raw, preprocessed, manager, configuration_manager, configuration, dataset_json, cases) -> None:
    preprocessor = DefaultPreprocessor(verbose=False)
    labeled_folder = preprocessed / configuration_manager.data_identifier
    free_folder = Path(unlabeled_folder(str(preprocessed), configuration_manager))
    for folder, ids, source in (
        (labeled_folder, cases.labeled, "imagesTr"),
        (free_folder, cases.unlabeled, "imagesUn"),
    ):
        folder.mkdir(exist_ok=True)
        for case in ids:
            images = [str(raw / source / f"{case}_{c:04d}.nii.gz") for c in range(len(dataset_json["channel_names"]))]
            label = str(raw / "labelsTr" / f"{case}.nii.gz") if source == "imagesTr" else None
            preprocessor.run_case_save(str(folder / case), images, label, manager, configuration_manager, dataset_json)
    manifest = {
        "format": 1,
        "preprocessing_hash": preprocessing_hash(manager, configuration_manager),
        "plans_name": manager.plans_name,
        "configuration": configuration,
        "cases": {case: record.sha256 for case, record in cases.unlabeled.items()},
    }
    Path(manifest_file(str(preprocessed), configuration_manager)).write_text(json.dumps(manifest))


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    make_dataset(target)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        print(f"export {variable}={target / variable}")
