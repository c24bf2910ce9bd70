"""Why an image file cannot be read, in words that name it."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path


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
        with gzip.open(file) as stream:
            while stream.read(1 << 22):
                pass
    except (OSError, EOFError, zlib.error) as error:
        return str(error)
    return None


def explain_reading_error(case: str, image_files: Sequence[str], reader_writer_class: type) -> str | None:
    """What is wrong with the image files of a case, naming the file; None where they can all be read."""
    problem = damaged_file(case, image_files)
    if problem is not None:
        return problem
    reader = reader_writer_class()
    for file in image_files:
        try:
            reader.read_images([file])
        except Exception as error:  # see read_case
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
