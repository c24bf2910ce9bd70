"""Where the voxels of an image lie: what a preprocessed case depends on beside the voxels themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path


def geometry_hash(image_files: Sequence[str | Path], reader_writer_class: type) -> str:
    """16 hexadecimal digits of spacing, origin and direction of all channels, as the reader takes them; no voxel is read.

    Args:
        reader_writer_class: nnU-Net's reader. "" for one whose files have no geometry, and for one that nnU-Net does not have.
    """
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    readers = {SimpleITKIO: _of_itk, Tiff3DIO: _of_tiff, NibabelIO: _of_nibabel, NibabelIOWithReorient: _of_nibabel}
    read = readers.get(reader_writer_class)
    if read is None:
        return ""
    text = json.dumps([read(str(file)) for file in image_files])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_itk(file: str) -> list:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return [reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()]


def _of_nibabel(file: str) -> list:
    import nibabel

    return nibabel.load(file).affine.tolist()  # type: ignore[attr-defined]


def _of_tiff(file: str) -> list:
    """nnU-Net reads the spacing from CASE.json beside CASE_0000.tif."""
    path = Path(file)
    sidecar = path.with_name(f"{path.stem[:-5]}.json")
    return [sidecar.read_text(encoding="utf-8")] if sidecar.is_file() else []
