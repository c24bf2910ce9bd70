"""Files that are complete or not there: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from nnunet_ssl.data.owners import is_abandoned, own_mark
from nnunet_ssl.errors import UserError

# of a file: the host and the process, and the ending that writers want; names without a host may be the user's
_TEMPORARY = re.compile(r"\..+\.([^/]+-[0-9]+)\.tmp(\..+)?", re.DOTALL)

_SEEN: set[Path] = set()  # folders that this process has looked through


def write_json_atomically(content: dict | list, file: str | Path) -> None:
    """Write `content` so that `file` is at every moment either what it was or complete; keys are sorted.

    Raises:
        UserError: no space is left on the disk.
    """
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    try:
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{file} cannot be written: {error.strerror}. Free some space and run the command again."
        ) from error


def write_atomically(filename: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary name)` in the folder of `filename`, flush the file to the disk, then rename it.

    Whatever goes wrong, an existing `filename` stays as it was and the temporary file is removed. With its first file in a folder a
    process also removes what killed processes of this host have left there.
    """
    filename = Path(filename)
    if filename.parent not in _SEEN:  # a folder of 10000 cases is not listed 10000 times
        _SEEN.add(filename.parent)
        remove_abandoned(filename.parent)
    temporary = filename.with_name(f".{filename.name}.{own_mark()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, filename)
    finally:
        temporary.unlink(missing_ok=True)


def copy_atomically(source: str | Path, target: str | Path) -> None:
    """Copy a file so that `target` is at every moment either what it was or complete; one of the same content stays untouched."""
    if not (os.path.isfile(target) and filecmp.cmp(source, target, shallow=False)):
        write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


def write_named_atomically(filename: str | Path, ending: str, write: Callable[[str], object]) -> None:
    """`write_atomically` for writers that take the format from the name: `write` gets a name with `ending`, such as ".nii.gz".

    A JSON file that they write beside it, as nnU-Net's does for the spacing of TIFFs, is put beside `filename`.
    """
    filename = Path(filename)

    def write_and_rename(temporary: Path) -> None:
        named, beside = Path(f"{temporary}{ending}"), Path(f"{temporary}.json")
        try:
            write(str(named))
            if beside.exists():
                os.replace(beside, filename.with_name(f"{filename.name.removesuffix(ending)}.json"))
            os.replace(named, temporary)
        finally:
            named.unlink(missing_ok=True)
            beside.unlink(missing_ok=True)

    write_atomically(filename, write_and_rename)


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is a temporary one of these functions."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files of these functions in `folder`, for a process that alone may write there; nothing else."""
    for file in folder.glob(".*.tmp*"):
        if is_unfinished(file.name) and file.is_file():
            file.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files in `folder` of processes of this host that are gone."""
    for entry in os.scandir(folder) if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(entry.name)
        if found and is_abandoned(found[1]) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)
