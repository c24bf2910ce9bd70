"""Names from files that become file names: ids of cases, and identifiers in plans. One rule for all readers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from nnunet_ssl.errors import UserError, excerpt, some

SEGMENTATION = "_seg"  # nnU-Net keeps the segmentation of case x in the file x_seg.b2nd


def dataset_number(name: str) -> str:
    """The digits of `DatasetXXX_Name`, of which there may be more than three, as commands take them after -d."""
    match = re.match(r"Dataset(\d+)", name)
    return match.group(1) if match else name


def dataset_title(name: str) -> str:
    """What follows the number in `DatasetXXX_Name`, in letters, digits, `_` and `-` only: the first part of a new name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.partition("_")[2]).strip("_-") or f"D{dataset_number(name)}"


def fault_of_name(name: object) -> str | None:
    """Why `name` cannot be the name of one file or folder; None where it can.

    Spaces, umlauts, dots inside, brackets and the like are fine.
    """
    if not isinstance(name, str):
        return "is no text"
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a space"
    if "/" in name or "\\" in name:
        return "has a path separator"
    if name.startswith("."):
        return "begins with a dot"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has a control character, or one that is not UTF-8"
    return None


# what SimpleITK cuts off before it adds `.nii.gz`
_CUT_OFF = re.compile(r".*\.(nii(\.gz)?|hdr|img|nia)", re.IGNORECASE | re.DOTALL)


def check_ids_of_files(ids: Iterable[str], ending: str, where: str) -> None:
    """UserError for ids of cases that end like an image file: of NIfTI files, label maps and predictions would get another name."""
    if not ending.lower().startswith(".nii"):
        return
    if cut := sorted(name for name in ids if _CUT_OFF.fullmatch(name)):
        raise UserError(
            f"{where}: {len(cut)} case id(s) end like an image file: {some(cut, 5)}. SimpleITK writes {cut[0]}{ending} under "
            "another name: label maps and nnU-Net's predictions would be lost, or replace those of another case. Rename the cases."
        )


def plain_name(name: object, where: str) -> str:
    """`name`, if it is one plain file name.

    Args:
        where: file and key, for the message.

    Raises:
        UserError: it is not.
    """
    fault = fault_of_name(name)
    if fault is not None:
        raise UserError(
            f"{where}: the name {excerpt(name)} {fault}. Allowed is the plain name of one file or folder. Correct it."
        )
    return str(name)


def check_case_ids(ids: Iterable[object], where: str) -> None:
    """What the ids of the cases of one data set may be; every reader of ids calls this.

    Args:
        where: the file (and key) or folder that names them.

    Raises:
        UserError: an id that is no plain file name; two ids that differ in upper and lower case alone, which are one file on
            many disks; `x` beside `x_seg`, which overwrite each other in nnU-Net's preprocessed folder.
    """
    ids = list(ids)
    if faulty := [(name, fault) for name in ids if (fault := fault_of_name(name)) is not None]:
        shown = some((f"{excerpt(name)} {fault}" for name, fault in faulty), 5)
        raise UserError(
            f"{where}: {len(faulty)} case id(s) cannot be file names: {shown}. Allowed are names without path separators, control "
            "characters and a leading dot. Rename the cases."
        )
    spellings: dict[str, str] = {}
    for name in sorted({str(name) for name in ids}):
        other = spellings.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(
                f"{where}: the case ids {other} and {name} differ in upper and lower case or in the form of an accent alone. On "
                "many disks they are one file. Rename one of them."
            )
    known = set(spellings)
    if clashing := sorted(name for folded, name in spellings.items() if f"{folded}{SEGMENTATION}" in known):
        name = clashing[0]
        raise UserError(
            f"{where}: there are the cases {name} and {name}{SEGMENTATION}. nnU-Net keeps the segmentation of {name} in a file "
            f"with the name of the other. Rename {name}{SEGMENTATION}."
        )
