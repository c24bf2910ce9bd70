"""Where the voxels of an image lie, by its header: what a preprocessed case depends on, and what images and labels must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ssl.data.files import reading_fault
from nnunet_ssl.errors import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk

# origin in mm and direction cosines as NIfTI (float32) and NRRD (text) preserve them; spacing is compared as nnU-Net does
ORIGIN_TOLERANCE = 1e-3
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Grid:
    """Geometry of a file, axes as its reader has them; spacing and origin in mm."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def first_difference(self, other: Grid) -> tuple[str, tuple, tuple] | None:
        """The first thing in which two grids differ, and what it is in this one and in the other; None where they agree."""
        for name, tolerance in (
            ("shape", 0.0),
            ("spacing", None),
            ("origin", ORIGIN_TOLERANCE),
            ("direction", DIRECTION_TOLERANCE),
        ):
            one, two = getattr(self, name), getattr(other, name)
            keywords = {} if tolerance is None else {"rtol": 0, "atol": tolerance}
            if len(one) != len(two) or not np.allclose(one, two, **keywords):
                return name, one, two
        return None

    def difference(self, other: Grid) -> str | None:
        """The same in words."""
        found = self.first_difference(other)
        if found is None:
            return None
        name, one, two = found
        return f"{name} {' x '.join(f'{v:g}' for v in one)}, the other has {' x '.join(f'{v:g}' for v in two)}"


def read_grid(file: str | Path, reader_writer_class: type) -> Grid | None:
    """The grid of a file by its header; None for readers whose files have none, and for readers that nnU-Net does not have.

    Raises:
        UserError: the header cannot be read.
    """
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    readers = {SimpleITKIO: _of_itk_file, NibabelIO: _of_nibabel, NibabelIOWithReorient: _of_reoriented}
    read = readers.get(reader_writer_class)
    try:
        return None if read is None else read(str(file))
    except Exception as error:  # of two libraries, see `read_case`
        fault = reading_fault(error)
        raise UserError(f"{file} {fault.what}. {fault.remedy or 'Restore the file.'}") from error


def geometry_hash(image_files: Sequence[str | Path], reader_writer_class: type) -> str:
    """16 hexadecimal digits of the grids of all channels, as the reader takes them; no voxel is read.

    Args:
        reader_writer_class: nnU-Net's reader. "" for one whose files have no geometry, and for one that nnU-Net does not have.
    """
    if has_spacing_files(reader_writer_class):
        found: list = [_of_tiff(Path(file)) for file in image_files]
    else:
        grids = [read_grid(file, reader_writer_class) for file in image_files]
        found = [astuple(grid) for grid in grids if grid is not None]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else ""


def other_axes(case: str, image_files: Sequence[str], example: str, reader_writer_class: type) -> str | None:
    """Names an image of another number of axes than `example`; None where there is none.

    nnU-Net would take a 2D image among 3D ones for one slice that is 999 mm thick.
    """
    wanted = read_grid(example, reader_writer_class)
    for file in image_files if wanted is not None else ():
        grid = read_grid(file, reader_writer_class)
        if grid is not None and wanted is not None and len(grid.spacing) != len(wanted.spacing):
            axes = f"{len(grid.spacing)} axes, {example} has {len(wanted.spacing)}"
            return f"case {case}: {file} has {axes}. Convert it, or remove the case."
    return None


def orientation(file: str | Path, reader_writer_class: type) -> str | None:
    """Where the axes of a file point, such as LPS, in nibabel's letters; None where the reader knows no direction."""
    import nibabel

    grid = read_grid(file, reader_writer_class)
    if grid is None:
        return None
    size = len(grid.spacing)
    affine = np.eye(4)
    affine[:size, :size] = np.reshape(grid.direction, (size, size))
    return "".join(map(str, nibabel.aff2axcodes(affine)))


def _of_itk_file(file: str) -> Grid:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return grid_of(reader)


def grid_of(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """The grid of an image of SimpleITK, or of a file whose header was read."""
    size = image.GetDimension()
    signs = np.array([-1.0, -1.0, 1.0, 1.0][:size])  # ITK's world is LPS, NIfTI's is RAS
    direction = np.reshape(image.GetDirection(), (size, size)) * signs[:, None]
    return Grid(
        image.GetSize(), image.GetSpacing(), tuple(signs * image.GetOrigin()), tuple(direction.ravel().tolist())
    )


def _of_nibabel(file: str) -> Grid:
    import nibabel

    image = nibabel.load(file)
    affine, size = image.affine, min(3, len(image.shape))  # type: ignore[attr-defined]
    spacing = tuple(float(step) for step in image.header.get_zooms()[:size])  # type: ignore[attr-defined]
    direction = affine[:size, :size] / np.linalg.norm(affine[:size, :size], axis=0)
    return Grid(tuple(image.shape[:size]), spacing, tuple(affine[:size, 3].tolist()), tuple(direction.ravel().tolist()))  # type: ignore[attr-defined]


def _of_reoriented(file: str) -> Grid:
    """As the reader turns it: files with other axes may have one grid."""
    import nibabel
    from nibabel.orientations import inv_ornt_aff, io_orientation

    image = nibabel.load(file)
    turned = io_orientation(image.affine)  # type: ignore[attr-defined]
    order = np.argsort(turned[:, 0])
    shape = np.array(image.shape[:3])  # type: ignore[attr-defined]
    spacing = np.array(image.header.get_zooms()[:3])[order]  # type: ignore[attr-defined]
    affine = image.affine @ inv_ornt_aff(turned, shape)  # type: ignore[attr-defined]
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return Grid(
        tuple(shape[order].tolist()),
        tuple(spacing.astype(float).tolist()),
        tuple(affine[:3, 3].tolist()),
        tuple(direction.ravel().tolist()),
    )


def _of_tiff(file: Path) -> str:
    sidecar = spacing_file(file, is_image=True)
    return sidecar.read_text(encoding="utf-8") if sidecar.is_file() else ""


def has_spacing_files(reader_writer_class: type) -> bool:
    """Whether the spacing of this reader's files lies in further ones."""
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    return issubclass(reader_writer_class, Tiff3DIO)


def has_spacing(label_file: str | Path, reader_writer_class: type) -> bool:
    """Whether a label map says its spacing: nnU-Net takes 1 mm for 3D TIFFs that do not."""
    return not has_spacing_files(reader_writer_class) or spacing_file(label_file, is_image=False).is_file()


def label_endings(file_ending: str) -> tuple[str, ...]:
    """Of the files that nnU-Net writes for one label map, after the name of the case."""
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    return (file_ending, ".json") if file_ending.lower() in Tiff3DIO.supported_file_endings else (file_ending,)


def spacing_file(file: str | Path, is_image: bool) -> Path:
    """Where nnU-Net looks for the spacing of a 3D TIFF: CASE.json beside CASE.tif, and beside all channels CASE_0000.tif."""
    file = Path(file)
    return file.with_name(f"{file.stem[:-5] if is_image else file.stem}.json")
