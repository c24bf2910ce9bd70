"""Which files of a folder are ours, and the only way in which this package replaces or deletes a folder.

A folder that a command may replace later has a record of what was written into it. A file that is not in it, or has changed
since, belongs to somebody else: the folder is then not replaced, and such a file is never deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nnunet_ssl.data.atomic import write_json_atomically
from nnunet_ssl.errors import UserError, some

RECORD = ".nnunet_ssl_files.json"
FORMAT = 1

Known = Callable[[str, Path], bool]  # path relative to the folder (with /), and the file -> whether it is ours


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """What is below a folder, by its relative path: files, and links to folders, which are not followed."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*files, *links]):
            file = Path(parent, name)
            yield file.relative_to(folder).as_posix(), file


def file_state(file: Path) -> list[int]:
    """Size and time of change, which a file keeps when it is moved."""
    status = file.lstat()
    return [status.st_size, status.st_mtime_ns]


def write_record(folder: Path, is_ours: Callable[[str], bool] = lambda path: True) -> None:
    """Record what is in the folder now as ours. `is_ours`: whether a relative path may be; default: everything."""
    files = {path: file_state(file) for path, file in _files(folder) if path != RECORD and is_ours(path)}
    write_json_atomically({"format": FORMAT, "files": files}, folder / RECORD)


def _load_record(folder: Path) -> dict[str, list[int]] | None:
    """Relative path -> size and time of change; None without a record that can be read."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return dict(content["files"]) if content["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def add_to_record(*files: Path) -> None:
    """For files that a command writes later into a folder that has a record; without a record nothing happens."""
    for file in files:
        record = _load_record(file.parent)
        if record is not None:
            record[file.name] = file_state(file)
            write_json_atomically({"format": FORMAT, "files": record}, file.parent / RECORD)


def write_recorded_json(content: dict | list, file: Path) -> None:
    """Write a JSON file that takes over what it held before, such as groups that a user has added; atomically.

    In a folder with a record it is ours only if it was before: a file with additions by hand is not replaced later.
    """
    ours = not file.exists() or in_record(file.parent)(file.name, file)
    write_json_atomically(content, file)
    if ours:
        add_to_record(file)


def in_record(folder: Path) -> Known:
    """Ours is what the record of the folder names and what has not changed since.

    A file with a second name elsewhere (a hard link) may have changed: nothing is lost with one of its names.
    """
    record = _load_record(folder)

    def known(path: str, file: Path) -> bool:
        if path == RECORD:
            return True
        if record is None or path not in record:
            return False
        return record[path] == file_state(file) or (not file.is_symlink() and file.stat().st_nlink > 1)

    return known


def foreign_files(folder: Path, known: Known) -> list[str]:
    """Relative paths of what is not ours."""
    return [path for path, file in _files(folder) if not known(path, file)]


def refuse_to_replace(target: Path, inputs: Iterable[str | Path], what: str) -> None:
    """For `--overwrite`: whether everything in the folder is ours and nothing that is read lies in it.

    Args:
        inputs: files and folders that the command reads.
        what: what to give in place of this folder, "a free id with -d".

    Raises:
        UserError: names the input, or the foreign files.
    """
    real = target.resolve()
    for given in inputs:
        if Path(given).resolve().is_relative_to(real):
            raise UserError(
                f"{given} lies in {target}, which would be replaced. Nothing was changed. Move it out of there, or give {what}."
            )
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is no folder, so it is not replaced. Move it away, or give {what}.")
    if _load_record(target) is None and any(target.iterdir()):
        raise UserError(
            f"{target} has no {RECORD}: it was made by hand, or by an older version of nnunet_ssl, so it is not replaced. Give "
            f"{what}, or look into the folder and remove it yourself."
        )
    if foreign := foreign_files(target, in_record(target)):
        raise UserError(
            f"{target} holds {len(foreign)} file(s) that were not written by nnunet_ssl or have changed since: "
            f"{some(foreign, 5)}. Nothing was changed. Move them away, or give {what}."
        )


def remove_folder(folder: Path, known: Known | None = None) -> list[str]:
    """Delete what is ours in a folder, and the folders that are empty then; links are not followed.

    Args:
        known: what is ours; None: what the folder's record says.

    Returns:
        Relative paths of what stays.
    """
    if folder.is_symlink() or not folder.is_dir():
        return []
    known = in_record(folder) if known is None else known
    kept = []
    for path, file in list(_files(folder)):
        if path == RECORD:
            continue
        if known(path, file):
            file.unlink(missing_ok=True)
        else:
            kept.append(path)
    if not kept:
        (folder / RECORD).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty, or another process was faster
            os.rmdir(parent)
    return kept
