"""Why an image file cannot be read, in words that name it: files of a raw data set, and files of a release; hashes of files."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.errors import UserError


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def damaged_file(case: str, image_files: Sequence[str]) -> str | None:
    """Names the first file that is damaged (`stream_damage`); None where there is none."""
    for file in image_files:
        if (damage := stream_damage(file)) is not None:
            return _damaged(case, file, damage)
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
            return _damaged(case, file, (str(error).strip().splitlines() or [type(error).__name__])[-1])
    try:
        reader.read_images(list(image_files))
    except Exception as error:
        return (
            f"case {case}: its channels {', '.join(Path(f).name for f in image_files)} do not fit together "
            f"({type(error).__name__} {error}). They must have one shape and spacing."
        )
    return None


def _damaged(case: str, file: str, reason: str) -> str:
    size = os.path.getsize(file) if os.path.exists(file) else 0
    return (
        f"case {case}: {file} ({size} bytes) cannot be read, it is truncated or damaged ({reason}). Restore the file, or "
        "remove the case."
    )


def wrong_number_of_channels(case: str, image_files: Sequence[str], found: int, expected: int) -> str:
    """Message for a case whose files hold another number of channels than dataset.json and the plans have."""
    return (
        f"case {case}: {', '.join(map(str, image_files))} hold {found} channel(s); dataset.json names {expected}. Correct "
        "the files, or the key channel_names, or remove the case."
    )


def check_nifti(path: Path) -> None:
    """UserError if a NIfTI file is shorter than its header says or its compressed stream is damaged.

    SimpleITK fills the missing part of such a file with zeros, or keeps the damage, and reports neither; and it does not
    report a file that it could not write completely.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = nibabel.load(path)
        needed = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        found = _stream_length(path) if path.name.endswith(".gz") else path.stat().st_size
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError) as error:
        raise damaged_release(path, str(error)) from error
    if found < needed:
        raise damaged_release(path, f"truncated: {found} bytes found, {needed} announced by the header")


def damaged_release(path: Path, why: str) -> UserError:
    """For a file of a release, which the user can download again."""
    return UserError(f"{path} cannot be read, it is truncated or corrupt ({why}). Download or unpack it again.")
