"""Text that people and other programs write: lines of a file, whole numbers, sizes of voxels. One way to read each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.errors import UserError


def read_lines(file: str | Path, what: str) -> list[str]:
    """Lines of a text file in UTF-8, with or without a byte order mark.

    Args:
        what: what it should be, "It is a text file with one case id per line."

    Raises:
        UserError: no such file, a pipe or a folder, no permission, another encoding.
    """
    try:
        return read_bytes(file, what).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file in UTF-8 ({error}). {what}") from error


def read_bytes(file: str | Path, remedy: str, missing: str | None = None) -> bytes:
    """Content of a file that is named by a user.

    Args:
        remedy: how the user puts it right, for the message.
        missing: what to say instead where there is none.

    Raises:
        UserError: no such file, a pipe or a folder, no permission.
    """
    file = Path(file)
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            found = "a folder" if file.is_dir() else "no regular file"
            raise UserError(f"{file} is {found}; allowed is a file. {remedy}")
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. {remedy if missing is None else missing}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}). {remedy}") from error


def whole_number(text: str) -> int | None:
    """The number from 0 on that a text of digits is; None for all else, such as superscripts and numbers of a thousand digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def share_of_all(text: str) -> float | None:
    """The share that `0.1`, `1e-1` or `10%` means, whether it is one or not (1.5); None for text that is no number.

    Only digits, one point and an exponent: Python also reads `1_0`, `nan` and spaces.
    """
    match = re.fullmatch(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(%?)", text)
    return None if match is None else float(match[1]) / (100 if match[2] else 1)


def check_voxel_size(option: str, size: Sequence[float], allowed: str) -> None:
    """UserError for sizes in mm that are not positive and finite.

    Args:
        option: that gives them, for the message.
        allowed: how many are, "one or three".
    """
    if not all(math.isfinite(number) and number > 0 for number in size):
        raise UserError(f"{option} {' '.join(map(str, size))}: allowed are {allowed} positive numbers in mm.")
