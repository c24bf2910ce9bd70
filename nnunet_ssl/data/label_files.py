"""Label maps of a raw data set beside labelsTr: checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, check_same_grid, read_label_map
from nnunet_ssl.errors import UserError


def checked_label_files(
    raw: RawDataset,
    files: Mapping[str, str],
    what: str,
    num_processes: int,
    show_progress: bool,
    like: Mapping[str, str] | None = None,
    images: Mapping[str, str] | None = None,
    may_ignore: bool = False,
) -> dict[str, str]:
    """Read label maps and return name -> hash of the file.

    Args:
        files: name -> file.
        what: "dense label map", "mask": for messages.
        like: name -> label file that must have the same shape.
        images: name -> readable image on which the label map must lie.
        may_ignore: whether the ignore label of the data set may occur.

    Raises:
        UserError: files cannot be read, hold other values than dataset.json names, have another shape, or lie elsewhere than
            their image; all of them are named.
    """
    allowed = {0}
    for name, value in raw.dataset_json["labels"].items():
        if name != "ignore" or may_ignore:
            allowed |= set(value if isinstance(value, list) else [value])
    reader, names = raw.reader_writer_class, list(files)
    beside = [[None if of is None else of[name] for of in (like, images)] for name in names]
    jobs = [(name, files[name], *others, reader, sorted(allowed), what) for name, others in zip(names, beside)]
    hashes, problems = {}, []
    for index, (digest, problem) in run_in_processes(_check, jobs, num_processes, f"Checking {what}s", show_progress):
        hashes[names[index]] = digest
        problems += [problem] if problem else []
    if problems:
        raise UserError("\n".join(sorted(problems)))
    return hashes


def _check(
    name: str,
    file: str,
    like: str | None,
    image: str | None,
    reader_writer_class: type,
    allowed: list[int],
    what: str,
) -> tuple[str, str]:
    """`(hash of the file, "")` or `("", what is wrong)`."""
    try:
        segmentation, _ = read_label_map(name, file, reader_writer_class)
        if image is not None:
            check_same_grid(name, image, file, reader_writer_class)
        shape = None if like is None else read_label_map(name, like, reader_writer_class)[0].shape
    except UserError as error:
        return "", str(error)
    found = ", ".join(f"{value:g}" for value in np.unique(segmentation) if value not in allowed)
    if found:
        return "", f"{file}: holds {found}; allowed in a {what} are {allowed}. Correct the file or remove it."
    if shape is not None and segmentation.shape != shape:
        return "", f"{file}: shape {segmentation.shape}, but {like} has {shape}. Correct the file or remove it."
    return file_hash(file), ""
