"""Why an image file cannot be read, in words that name it: files of a raw data set, and files of a release; hashes of files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.data.listing import what_it_is
from nnunet_ssl.errors import UserError

_GZIP = b"\x1f\x8b"  # how a compressed stream begins
SPACING_REMEDY = "Allowed are positive numbers in mm. Correct the header."


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, and what to do; no remedy: it is damaged, and a sound copy is needed."""

    what: str
    remedy: str = ""


def damaged_file(case: str, image_files: Sequence[str]) -> str | None:
    """Names the first file that is damaged or not what it seems (`file_fault`); None where there is none."""
    for file in image_files:
        if (fault := file_fault(Path(file))) is not None:
            return _of_case(case, file, fault)
    return None


def file_fault(path: Path) -> Fault | None:
    """What is wrong with an image file that readers pass over without a word; None where nothing is.

    SimpleITK fills what is missing from a truncated NIfTI file with zeros, reads NaN as 0, and takes a spacing of 0 for 1.
    """
    if not path.is_file():  # readers would wait for a pipe
        return Fault(what_it_is(path))
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _nifti_fault(path)
    if name.endswith((".nrrd", ".mha")):
        return _detached(path)
    damage = stream_damage(path)
    return None if damage is None else _damage(damage)


def _damage(why: str) -> Fault:
    return Fault(f"cannot be read, it is truncated or damaged ({why})")


def _compression_fault(path: Path) -> Fault | None:
    """NIfTI files that were compressed twice, or not at all, in spite of their name."""
    if not path.name.lower().endswith(".gz"):
        return None
    with open(path, "rb") as stream:
        head = stream.read(352)
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return Fault("is not compressed, though its name ends in .gz", "Compress it with gzip.")
    if head[:2] == _GZIP:
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(path) as inner:
            if inner.read(2) == _GZIP:
                return Fault("was compressed twice", "Unpack it once with gunzip, and give it its name again.")
    return None


def _nifti_fault(path: Path) -> Fault | None:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if (fault := _compression_fault(path)) is not None:
        return fault
    try:
        image: Any = nibabel.load(path)
        kind, shape, offset = image.get_data_dtype(), image.shape, image.dataobj.offset
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError) as error:
        return _damage(" ".join(str(error).split()))
    needed = offset + math.prod(map(int, shape)) * kind.itemsize
    if len(content) < needed:
        return _damage(f"truncated: {len(content)} bytes found, {needed} announced by the header")
    if kind.kind not in "iuf":
        return Fault(f"holds voxels of the type {kind}", "Allowed are whole and real numbers. Convert the file.")
    # as it is written: nibabel has corrected its copy
    spacing = type(image.header).from_fileobj(io.BytesIO(content), check=False)["pixdim"][1 : 1 + min(3, len(shape))]
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        found = ", ".join(f"{size:g}" for size in spacing)
        return Fault(f"has the spacing {found} in its header", SPACING_REMEDY)
    if kind.kind == "f":
        voxels = np.frombuffer(content, kind, math.prod(map(int, shape)), offset)
        if not_finite(voxels):
            return NOT_FINITE
    return None


def not_finite(voxels: np.ndarray) -> bool:
    """Whether there are values that are NaN, infinite, or beyond what float32 holds."""
    return not bool((np.abs(voxels) <= np.finfo(np.float32).max).all())  # false for NaN


NOT_FINITE = Fault(
    "holds voxels that are NaN or infinite, or beyond what float32 holds",
    "Readers take them for 0, or nnU-Net's intensities become NaN: write the values that are meant.",
)


def _detached(path: Path) -> Fault | None:
    """NRRD and MetaImage headers may name a file with the voxels, which a copy of the header would not find."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 16).split(b"\n\n")[0] if path.name.lower().endswith(".nrrd") else stream.read(1 << 16)
    for line in head.splitlines():
        key, _, value = line.replace(b"=", b":", 1).partition(b":")
        if key.strip().lower().replace(b" ", b"") in (b"datafile", b"elementdatafile"):
            if value.strip().lower() != b"local":
                other = value.strip().decode("utf-8", "replace")
                return Fault(f"keeps its voxels in another file ({other})", "Write it as one file.")
            break
    return None


def stream_damage(file: str | Path) -> str | None:
    """Why the compressed stream of a .gz file cannot be read to its end with the right checksum; None where it can.

    SimpleITK fills what is missing from a truncated .nii.gz with zeros and says nothing.
    """
    if not str(file).endswith(".gz"):
        return None
    try:
        _stream_length(file)
    except (OSError, EOFError, zlib.error) as error:
        return str(error)
    return None


def _stream_length(file: str | Path) -> int:
    """Bytes of a .gz file when unpacked; reads to its end, where the checksum is compared."""
    length = 0
    with gzip.open(file) as stream:
        while chunk := stream.read(1 << 22):
            length += len(chunk)
    return length


def explain_reading_error(case: str, image_files: Sequence[str], reader_writer_class: type) -> str | None:
    """What is wrong with the image files of a case, naming the file; None where they can all be read."""
    problem = damaged_file(case, image_files)
    if problem is not None:
        return problem
    reader = reader_writer_class()
    for file in image_files:
        try:
            reader.read_images([file])
        except Exception as error:  # readers of five libraries raise whatever they like on a damaged file
            return _of_case(case, file, reading_fault(error))
    try:
        reader.read_images(list(image_files))
    except Exception as error:
        return (
            f"case {case}: its channels {', '.join(Path(f).name for f in image_files)} do not fit together "
            f"({type(error).__name__} {error}). They must have one shape and spacing."
        )
    return None


def reading_fault(error: Exception) -> Fault:
    """What an error of a reader means."""
    text = str(error).strip()
    if "orthonormal" in text:
        return Fault(
            "has axes in its header that are not at right angles, or not of length 1; SimpleITK rejects them",
            'Correct the header, or write "overwrite_image_reader_writer": "NibabelIO" into dataset.json, which takes them.',
        )
    last = (text.splitlines() or [""])[-1]
    if "change spacing" in last:  # of ITK, which does not take 0
        return Fault(f"has a spacing in its header that is not possible ({last})", SPACING_REMEDY)
    if re.fullmatch("Ending .* not supported by .*", last):  # of nnU-Net's reader of TIFFs
        return Fault(
            f"cannot be read ({last})", "Correct 'overwrite_image_reader_writer' or 'file_ending' in dataset.json."
        )
    return _damage((text.splitlines() or [type(error).__name__])[-1])


def _of_case(case: str, file: str | Path, fault: Fault) -> str:
    size = os.path.getsize(file) if os.path.exists(file) else 0
    remedy = fault.remedy or "Restore the file, or remove the case."
    return f"case {case}: {file} ({size} bytes) {fault.what}. {remedy}"


def wrong_number_of_channels(case: str, image_files: Sequence[str], found: int, expected: int) -> str:
    """Message for a case whose files hold another number of channels than dataset.json and the plans have."""
    return (
        f"case {case}: {', '.join(map(str, image_files))} hold {found} channel(s); dataset.json names {expected}. Correct "
        "the files, or the key channel_names, or remove the case."
    )


def check_file(path: Path) -> None:
    """UserError for a file of a release, or one just written, that is damaged or not what it seems, see `file_fault`."""
    fault = file_fault(path)
    if fault is not None:
        raise faulty_release(path, fault)


def faulty_release(path: Path, fault: Fault) -> UserError:
    """For a file of a release, which the user can download again."""
    return UserError(f"{path} {fault.what}. {fault.remedy or 'Download or unpack it again.'}")
