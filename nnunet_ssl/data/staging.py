"""A data set on the disk is complete or not there at all, also when the conversion is killed or the disk is full.

It is written to a hidden sibling folder and renamed when it is complete; every file is looked at after it was written.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import SimpleITK as sitk

from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.files import check_file
from nnunet_ssl.data.owners import is_abandoned, own_mark
from nnunet_ssl.data.ownership import remove_folder, write_record
from nnunet_ssl.errors import UserError, some

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def target_folder(dataset_id: int, name: str, option: str = "-d") -> Path:
    """`nnUNet_raw/DatasetXXX_Name` of a data set to be made; `option` is what the id is called on the command line.

    Raises:
        UserError: an id or a name that nnU-Net does not take, an id that another data set has, nnUNet_raw is not set.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    if not 1 <= dataset_id <= 999:
        raise UserError(f"{option} {dataset_id}: a data set id lies between 1 and 999.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise UserError(f"-name {name}: allowed are letters, digits, '_' and '-', up to 100, as in Dataset101_LA.")
    raw = nnunet_folder("nnUNet_raw")
    folder_name = f"Dataset{dataset_id:03d}_{name}"
    # nnU-Net finds a data set by its number in the raw, the preprocessed and the results folder and stops at two names
    others = [str(other) for other in find_candidate_datasets(dataset_id) if other != folder_name]
    if others:
        raise UserError(
            f"{option} {dataset_id}: the id belongs to {some(others)} (in nnUNet_raw, nnUNet_preprocessed or "
            f"nnUNet_results), so {folder_name} cannot be made. Give a free id with {option}, or the same name with -name."
        )
    return raw.absolute() / folder_name


def staging_folder(target: Path) -> Path:
    """Where the data set is written before it is renamed to `target`; the name tells which process it belongs to.

    On the disk of `target`, if that is a link to a folder of another one.
    """
    target = target.resolve()
    return target.with_name(f"{_staging_prefix(target)}{own_mark()}")


def _staging_prefix(target: Path) -> str:
    return f".{target.name}.converting-"


def recover(target: Path) -> None:
    """Put right what a killed conversion has left: its half data set goes, a data set it had moved aside comes back."""
    target = target.resolve()
    if not target.parent.is_dir():
        return
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists():
        if target.exists():
            if _remove_replaced(replaced):
                raise UserError(f"{replaced} is where the next replaced folder would be put. Move it away.")
        else:
            os.rename(replaced, target)
            print(f"An interrupted run had moved {target} aside; it is back in its place.")
    prefix = _staging_prefix(target)
    for leftover in target.parent.glob(f"{prefix}*"):
        mark = leftover.name.removeprefix(prefix)
        if is_abandoned(mark) or mark == own_mark():  # numbers of processes come again
            shutil.rmtree(leftover)
            print(f"Removed {leftover}, left by an interrupted run.")


def put_in_place(staging: Path, target: Path) -> None:
    """Rename the complete data set, with a record of its files; the one it replaces is removed only after that."""
    write_record(staging)
    target = target.resolve()  # a link to another disk stays one
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        os.rename(target, replaced)
    try:
        os.rename(staging, target)
    except OSError:
        if replaced.exists():
            os.rename(replaced, target)
        raise
    _remove_replaced(replaced)


def _remove_replaced(replaced: Path) -> list[str]:
    """Remove what is ours of a data set that has been replaced; the files that stay, which are none where nothing came in."""
    if kept := remove_folder(replaced):
        print(f"{replaced} stays: it holds {len(kept)} file(s) that are not ours: {some(kept, 5)}. Move them away.")
    return kept


def write_image(image: sitk.Image, path: Path) -> None:
    """Write and look at the result, since SimpleITK does not report a file that it could not write completely."""
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise _incomplete(path, image) from error
    try:
        check_file(path)
    except UserError as error:
        raise _incomplete(path, image) from error


def _incomplete(path: Path, image: sitk.Image) -> OSError:
    size = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
    full = shutil.disk_usage(path.parent).free < size
    return OSError(errno.ENOSPC if full else errno.EIO, os.strerror(errno.ENOSPC if full else errno.EIO), str(path))


def disk_message(error: OSError, target: Path) -> str:
    """What to tell the user of an error while writing beside `target`: how much space is free and what was kept."""
    try:
        free = f"{shutil.disk_usage(target.parent).free / 2**20:.0f} MB are free"
    except OSError:
        free = "its free space is unknown"
    kept = f"{target} is as it was" if target.exists() else "nothing was kept"
    if error.errno in DISK_FULL:
        return (
            f"no space left on the disk of {target.parent} ({error}); {free}; {kept}. "
            "Free some space, or write to another disk, and run the command again."
        )
    return (
        f"{target.parent} cannot be written ({error}); {free}; {kept}. "
        "Check the permissions, the quota and the disk, or write elsewhere, and run the command again."
    )
