"""A release of five small cases, readers for it (worker processes import them), and its conversion."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription
from nnunet_ssl.dataset_conversion.reading import read_image
from nnunet_ssl.dataset_conversion.writing import write_dataset

SHAPE = (4, 6, 5)  # z, y, x
DATASET = DatasetDescription(101, "Toy", {"0": "MRI"}, {"background": 0, "organ": 1}, ({0: 0, 255: 1}, {0: 0, 1: 1}))
FIVE = Assignment(labeled=("c1", "c2"), unlabeled=("c3",), validation=("c4",), test=("c5",))


def read_plain(case: Case):
    return [read_image(path) for path in case.images], read_image(case.label) if case.label else None


def read_and_die(case: Case):
    if case.case_id == "c2":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_plain(case)


def read_and_raise(case: Case, error: BaseException):
    if case.case_id == "c2":
        raise error
    return read_plain(case)


def read_slowly(case: Case):
    time.sleep(60 if case.case_id == "c2" else 0)
    return read_plain(case)


def write(array: np.ndarray, path: Path, spacing=(1.0, 1.0, 2.0), origin=(0, 0, 0), direction=None) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def make_case(folder: Path, case_id: str, patient: str | None = None, with_label: bool = True, **geometry) -> Case:
    rng = np.random.default_rng(sum(map(ord, case_id)))
    image = write(rng.integers(0, 500, SHAPE).astype(np.int16), folder / f"{case_id}.nii.gz")
    label = None
    if with_label:
        mask = np.zeros(SHAPE, np.uint8)
        mask[1:3, 2:4, 2:4] = 255
        label = write(mask, folder / f"{case_id}_mask.nii.gz", **geometry)
    return Case(case_id, patient or case_id, (image,), label, image.name)


def convert(cases, assignment=FIVE, reader=read_plain, dataset=DATASET, num_processes=1, overwrite=False) -> Path:
    return write_dataset(dataset, cases, assignment, reader, num_processes, overwrite)
