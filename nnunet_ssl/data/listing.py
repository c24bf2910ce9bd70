"""One rule for what a folder of images, labels, masks or predictions holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.errors import UserError, some

_CHANNEL = re.compile(r"(.+)_\d{4}", re.DOTALL)


def files_with_ending(folder: Path, ending: str) -> dict[str, Path]:
    """Name without `ending` -> file, sorted. Hidden files (`._case` of macOS) are none; a missing folder holds none.

    Raises:
        UserError: the folder is no folder, or an entry with this ending is no file: a link to something that is not there, a pipe,
            a folder. Such a case must not vanish without a word.
    """
    if not folder.is_dir():
        if folder.is_symlink() or folder.exists():
            raise UserError(f"{folder} {what_it_is(folder)}; allowed is a folder. Restore it, or remove it.")
        return {}
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith(".") or not name.endswith(ending) or name == ending:
            continue
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} {what_it_is(file)}; allowed is a file. Restore it, or remove it.")
        found[name[: -len(ending)]] = file
    return found


def what_it_is(path: Path) -> str:
    """What stands in the place of a file, after its name: "is a folder"."""
    if not path.is_symlink() and not path.exists():
        return "does not exist"
    if path.is_symlink() and not path.exists():
        return f"is a link to {os.readlink(path)}, which does not exist (a disk that is not mounted?)"
    return "is a folder" if path.is_dir() else "is no regular file"


def channels_of_cases(folder: Path, ending: str) -> dict[str, list[str]]:
    """Case -> its channel files CASE_XXXX, both sorted, as in nnU-Net's image folders.

    Raises:
        UserError: as `files_with_ending`, or a file without a number of its channel.
    """
    cases: dict[str, list[str]] = {}
    for name, file in files_with_ending(folder, ending).items():
        match = _CHANNEL.fullmatch(name)
        if match is None:
            # nnU-Net would pass over such a file without a word
            raise UserError(
                f"{file}: an image in {folder.name} must be named CASE_XXXX{ending}, XXXX being the number of its channel. "
                "Rename it."
            )
        cases.setdefault(match.group(1), []).append(str(file))
    return dict(sorted(cases.items()))


def refuse_other_endings(folder: Path, name: str, endings: Sequence[str]) -> None:
    """UserError for an image or label map without one of `endings`, such as CASE.NII.GZ: it would vanish without a word.

    Args:
        name: how files are named before their ending, "CASE".
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    readable = {ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings} | {".nii", ".mhd"}
    for found in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if found.startswith(".") or found.endswith(tuple(endings)) or not found.lower().endswith(tuple(readable)):
            continue
        right = [found[: -len(ending)] + ending for ending in endings if found.lower().endswith(ending.lower())]
        what = "an image" if folder.name.startswith("images") else "a file"
        raise UserError(
            f"{folder / found}: {what} in {folder.name} must be named {name}{' or '.join(endings)}. "
            + (f"Rename it to {right[0]}." if right else "Rename or convert it.")
        )


def refuse_hidden_files(folder: Path, ending: str) -> None:
    """UserError that names hidden files with this ending in a folder that nnU-Net lists by itself: it would take them for cases."""
    hidden = (
        [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(ending)]
        if folder.is_dir()
        else []
    )
    if hidden:
        raise UserError(
            f"{folder} holds {len(hidden)} hidden file(s): {some(sorted(hidden), 3)}. nnU-Net takes them for cases and stops. "
            f"Delete them: find '{folder}' -name '._*' -delete"
        )
