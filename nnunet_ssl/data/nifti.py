"""NIfTI files that are shorter than they say."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from nnunet_ssl.errors import UserError


def check_nifti(path: Path) -> None:
    """UserError if a NIfTI file is shorter than its header says or its compressed stream is damaged.

    SimpleITK fills the missing part of such a file with zeros, or keeps the damage, and reports neither; and it does not
    report a file that it could not write completely.
    """
    import nibabel

    try:
        image = nibabel.load(path)
        needed = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if path.name.endswith(".gz"):
            found = 0
            with gzip.open(path) as stream:
                while chunk := stream.read(1 << 22):
                    found += len(chunk)
        else:
            found = path.stat().st_size
    except (OSError, EOFError, zlib.error, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise _damaged(path, str(error)) from error
    except nibabel.spatialimages.HeaderDataError as error:
        raise _damaged(path, str(error)) from error
    if found < needed:
        raise _damaged(path, f"truncated: {found} bytes found, {needed} announced by the header")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be read, it is truncated or corrupt ({why}). Download or unpack it again.")
