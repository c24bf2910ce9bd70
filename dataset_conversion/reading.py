"""Reading a release: its folders, its NIfTI, NRRD and h5 files, and the checks that every case must pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.data.files import NOT_FINITE, Fault, check_file, faulty_release, not_finite, reading_fault
from nnunet_ssl.data.geometry import grid_of
from nnunet_ssl.data.listing import what_it_is
from nnunet_ssl.dataset_conversion.common import Case, DatasetDescription
from nnunet_ssl.errors import UserError, some

# files and folders that unpacking, browsing and mirrors leave behind
IGNORED_NAMES = ("desktop.ini", ".DS_Store", "__MACOSX", "MANDATORY_CITATION.md")
LARGEST_H5 = 10**9  # voxels; the largest published volumes have a tenth of it


def is_ignored(path: Path) -> bool:
    """True for what is not data: desktop.ini, .DS_Store, __MACOSX, `._*`, MANDATORY_CITATION.md."""
    return path.name in IGNORED_NAMES or path.name.startswith("._")


def list_folder(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without the ignored ones. UserError if it is missing, not a folder, or empty."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(f"{folder}: found {found}, expected a folder. Give the folder of the unpacked release with -i.")
    entries = sorted(path for path in folder.iterdir() if not is_ignored(path))
    if not entries:
        raise UserError(f"{folder} is empty. Unpack the release there, or give its folder with -i.")
    return entries


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in sorted order, through symbolic links but not in circles, without ignored files and folders."""
    list_folder(folder)
    for root, folders, files in os.walk(folder, followlinks=True):
        # a link to a folder that contains it would be followed for ever
        above = {os.path.realpath(root), *map(str, Path(os.path.realpath(root)).parents)}
        folders[:] = sorted(
            name for name in folders if not is_ignored(Path(name)) and os.path.realpath(Path(root, name)) not in above
        )
        yield Path(root), list(folders), sorted(name for name in files if not is_ignored(Path(name)))


def require_file(path: Path) -> None:
    """UserError where a listed name is no file: a link to nothing, a folder, or a pipe, for which readers would wait."""
    if not path.is_file():
        raise UserError(f"{path} {what_it_is(path)}. Complete the download, or remove the case from the input.")


def read_image(path: Path) -> sitk.Image:
    """Read an image or a mask with SimpleITK. UserError for a missing, truncated or damaged file."""
    require_file(path)
    check_file(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: RuntimeError) -> UserError:
    fault = reading_fault(error)
    return faulty_release(path, Fault(fault.what, fault.remedy and "Correct the header."))


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an array lie, for files that do not say: spacing in mm and position, axes (x, y, z)."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    size: tuple[int, ...] | None = None  # that the array must have; None: any
    source: Path | None = None  # file with the header

    def apply(self, image: sitk.Image, path: Path) -> None:
        """Give it to `image`, which was read from `path`. UserError if the sizes differ."""
        if self.size is not None and image.GetSize() != self.size:
            raise UserError(
                f"{path} has the size {_numbers(image.GetSize())} (x, y, z), the header of {self.source} says "
                f"{_numbers(self.size)}. They must be the same scan: correct the folder of the headers."
            )
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)


def read_header(path: Path) -> sitk.ImageFileReader:
    """The header of an image file alone. UserError for a missing or damaged file."""
    require_file(path)
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return header


def read_geometry(path: Path) -> Geometry:
    """Geometry of an image file by its header; the voxels are not read. UserError for a file that is no 3D image."""
    header = read_header(path)
    if header.GetDimension() != 3:
        raise UserError(f"{path} has {header.GetDimension()} dimensions; expected 3. Give the file of one volume.")
    return Geometry(header.GetSpacing(), header.GetOrigin(), header.GetDirection(), header.GetSize(), path)


def read_h5(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an h5 file by key. UserError that lists the keys found if one is missing or cannot be read."""
    arrays = {}
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            for key in keys:
                if key not in file:
                    found = some(sorted(file)) or "no key"
                    raise UserError(
                        f"{path}: key '{key}' is missing; found {found}. Expected are the keys of the published re-release "
                        f"({', '.join(keys)}). Download the file again, or rename the key."
                    )
                arrays[key] = _h5_array(path, file, key)
    except OSError as error:
        raise faulty_release(path, Fault(f"cannot be read, it is truncated or damaged ({error})")) from error
    return arrays


def _h5_array(path: Path, file: h5py.File, key: str) -> np.ndarray:
    """One array in the machine's byte order; half precision becomes float32, which SimpleITK has, and bool uint8."""
    where, again = f"{path}: key '{key}'", "Download the file again."
    link = file.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(
            f"{where} lies in another file ({link.filename}). Allowed is an array in the file itself. {again}"
        )
    found = file[key]
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{where} is a group, expected an array. {again}")
    if found.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {found.dtype}; allowed are whole and real numbers. {again}")
    if not 0 < found.size <= LARGEST_H5:
        raise UserError(f"{where} has the shape {found.shape}; allowed are 1 to {LARGEST_H5:g} voxels. {again}")
    try:
        array = found[()]
    except (OSError, TypeError) as error:
        raise UserError(f"{where} cannot be read ({error}). The file is damaged: download it again.") from error
    smallest = {"f2": np.float32, "b1": np.uint8}.get(array.dtype.str[1:], array.dtype.newbyteorder("="))
    return np.asarray(array, smallest)


def check_images(
    case: Case, images: list[sitk.Image], labels: Mapping[str, sitk.Image | None], dataset: DatasetDescription
) -> None:
    """UserError if channels are missing, not 3D, or not finite, or if channels and labels (by name) differ in geometry."""
    where = f"case {case.case_id} ({case.source})"
    if len(images) != len(dataset.channel_names):
        raise UserError(
            f"{where}: {len(images)} image(s) found, {len(dataset.channel_names)} needed "
            f"({', '.join(dataset.channel_names.values())}). Complete the case."
        )
    named = [(f"image {name}", image) for name, image in zip(dataset.channel_names.values(), images, strict=True)]
    named += [(name, label) for name, label in labels.items() if label is not None]
    for name, image in named:
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise UserError(
                f"{where}: {name} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} component(s) "
                "per voxel; allowed are 3 and 1. Split it into volumes of one channel."
            )
    (reference_name, reference), *others = named
    for name, image in others:
        difference = grid_of(image).first_difference(grid_of(reference))
        if difference is not None:
            what, found, expected = difference
            raise UserError(
                f"{where}: {what} of the {name} is {_numbers(found)}, that of the {reference_name} is {_numbers(expected)}. "
                "They must agree; nothing is resampled or repaired silently. Correct the file or leave the case out."
            )
    for name, image in named:
        if "float" in image.GetPixelIDTypeAsString() and not_finite(sitk.GetArrayViewFromImage(image)):
            raise UserError(f"{where}: {name} {NOT_FINITE.what}. {NOT_FINITE.remedy}")


def map_label(case: Case, path: Path, label: sitk.Image, label_codes: Sequence[Mapping[int, int]]) -> sitk.Image:
    """The label (uint8, or uint16 beyond 255) in the codes of nnU-Net, by the first of `label_codes` that knows all of its codes.

    Raises:
        UserError: no mapping does; names the file (`path`), what was found and what is allowed.
    """
    array = sitk.GetArrayViewFromImage(label)
    found = [value.item() for value in np.unique(array)]
    for codes in label_codes:
        if set(found) <= set(codes):
            mapped = np.zeros(array.shape, dtype=np.min_scalar_type(max(codes.values())))
            for code in found:
                mapped[array == code] = codes[int(code)]
            result = sitk.GetImageFromArray(mapped)
            result.CopyInformation(label)
            return result
    allowed = " or ".join("{" + ", ".join(map(str, sorted(codes))) + "}" for codes in label_codes)
    raise UserError(
        f"case {case.case_id}: label {path} holds the codes {_numbers(found[:20])}{'...' if len(found) > 20 else ''}; "
        f"allowed is {allowed}. Use the original label file, or leave the case out."
    )


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
