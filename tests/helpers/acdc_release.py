"""Small synthetic copies of the releases of ACDC (official folders, scribbles, h5 files), and their conversion."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.dataset_conversion.case_lists import shipped_list

TRAIN = shipped_list("acdc_train70.list")[:3]
VALIDATION = shipped_list("acdc_val10.list")[:1]
TEST = shipped_list("acdc_test20.list")[:1]
SHAPE = (11, 6, 8)  # z, y, x; more than ten slices, so that sorting by name fails
SPACING = (1.4, 1.4, 10.0)


def arrays(patient: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (z, y, x) int16 and label 0-3 of a synthetic frame."""
    rng = np.random.default_rng(int(patient[-3:]) * 100 + frame)
    label = np.zeros(SHAPE, np.uint8)
    for code in (1, 2, 3):
        label[2:9, 1:5, 2 * code : 2 * code + 2] = code
    return rng.integers(0, 300, SHAPE).astype(np.int16), label


def scribble(patient: str, frame: int) -> np.ndarray:
    """Scribble (z, y, x) uint16 of a synthetic frame: a stroke per class where the class is, one of background, else 4."""
    _, label = arrays(patient, frame)
    strokes = np.full(SHAPE, 4, np.uint16)
    strokes[:, 2, :] = label[:, 2, :]
    return strokes


def write_scribbles(folder: Path, patient: str, frames=(1, 12)) -> None:
    for frame in frames:
        write(scribble(patient, frame), folder / f"{patient}_frame{frame:02d}_scribble.nii.gz")


def write(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_patient(folder: Path, patient: str, frames=(1, 12), labels=True, number_4d=0, ending=".nii.gz") -> Path:
    """Official folder of a patient; with `number_4d`, also the 4D image of that many frames."""
    place = folder / patient
    place.mkdir(parents=True)
    (place / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
    for frame in frames:
        image, label = arrays(patient, frame)
        write(image, place / f"{patient}_frame{frame:02d}{ending}")
        if labels:
            write(label, place / f"{patient}_frame{frame:02d}_gt{ending}")
    if number_4d:
        volumes = []
        for frame in range(1, number_4d + 1):
            volumes.append(sitk.GetImageFromArray(arrays(patient, frame)[0]))
            volumes[-1].SetSpacing(SPACING)
        sitk.WriteImage(sitk.JoinSeries(volumes), str(place / f"{patient}_4d{ending}"), useCompression=True)
    return place


def write_patients(release: Path, *numbers: int) -> list[str]:
    """Images and scribbles of the patients of these numbers that are not there yet; the names of all of them."""
    patients = [f"patient{number:03d}" for number in numbers]
    for patient in patients:
        if not (release / "ACDC" / "training" / patient).is_dir():
            write_patient(release / "ACDC" / "training", patient)
            write_scribbles(release / "acdc_scribbles", patient)
    return patients


def write_h5(folder: Path, patient: str, frame: int, slices: bool, omit=()) -> None:
    """A volume, or its slices, with image in [0, 1] as SSL4MIS and WSL4MIS store them."""
    folder.mkdir(parents=True, exist_ok=True)
    image, label = arrays(patient, frame)
    image = (image / image.max()).astype(np.float32)
    parts = [("", slice(None))] if not slices else [(f"_slice_{z}", z) for z in range(len(image)) if z not in omit]
    for name, part in parts:
        with h5py.File(folder / f"{patient}_frame{frame:02d}{name}.h5", "w") as file:
            file["image"], file["label"], file["scribble"] = image[part], label[part], scribble(patient, frame)[part]


def read(path: Path) -> tuple[np.ndarray, sitk.Image]:
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), image


def placed(target: Path) -> dict[str, list[str]]:
    folders = ["imagesTr", "labelsTr", "imagesUn", "imagesTs", "labelsTs"]
    if (target / "labelsTr_dense").is_dir():
        folders.insert(2, "labelsTr_dense")
    return {
        name: sorted(path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in (target / name).glob("*"))
        for name in folders
    }


def frames_of(patients, frames=(1, 12)) -> list[str]:
    return sorted(f"{patient}_frame{frame:02d}" for patient in patients for frame in frames)


def convert(release: Path, *arguments: str) -> int:
    """Exit code of the conversion of `release`/ACDC."""
    return main(["convert", "ACDC", "-i", str(release / "ACDC"), "-np", "1", *arguments])


def convert_scribbles(release: Path, *arguments: str) -> int:
    """The same with the scribbles of `release`/acdc_scribbles."""
    return convert(release, "--scribbles", str(release / "acdc_scribbles"), *arguments)
