"""Label maps of a raw data set beside labelsTr: checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_ssl.data.files import file_hash
from nnunet_ssl.data.geometry import read_grid
from nnunet_ssl.data.label_values import other_codes
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset, read_label_map
from nnunet_ssl.errors import UserError, listed


def named_codes(dataset_json: Mapping, ignore: bool = False) -> set[int]:
    """The numbers that label maps may hold, with or without the ignore label; `dataset_json` as `RawDataset` has it."""
    values = [value for name, value in dataset_json["labels"].items() if ignore or name != "ignore"]
    return {0, *(code for value in values for code in (value if isinstance(value, list) else [value]))}


def misplaced_labels(raw: RawDataset, section: str = "labeled") -> list[str]:
    """Names label maps whose headers have another spacing, origin or direction than their image's.

    nnU-Net takes them all the same, voxel by voxel.

    Raises:
        UserError: a label map has another shape than its image, which nnU-Net cannot use; all are named.
    """
    shapes, places = [], []
    for case, label in raw.label_files(section).items():
        image = raw.images(section)[case][0]
        one, other = (read_grid(file, raw.reader_writer_class) for file in (label, image))
        if one is not None and other is not None and (difference := one.difference(other)):
            of_shape = difference.startswith("shape")
            (shapes if of_shape else places).append(f"case {case}: {label} has the {difference} ({image})")
    if shapes:
        raise UserError(f"{listed(shapes)}\nnnU-Net cannot use such labels. Correct them, or remove these cases.")
    return places


def checked_label_files(
    raw: RawDataset,
    files: Mapping[str, str],
    what: str,
    num_processes: int,
    show_progress: bool,
    like: Mapping[str, str] | None = None,
    may_ignore: bool = False,
) -> dict[str, str]:
    """Read label maps and return name -> hash of the file.

    Args:
        files: name -> file.
        what: "dense label map", "mask": for messages.
        like: name -> label file that must have the same shape.
        may_ignore: whether the ignore label of the data set may occur.

    Raises:
        UserError: files cannot be read, hold other values than dataset.json names, or have another shape; all of them are
            named.
    """
    allowed = named_codes(raw.dataset_json, may_ignore)
    reader, names = raw.reader_writer_class, list(files)
    jobs = [(name, files[name], None if like is None else like[name], reader, sorted(allowed), what) for name in names]
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
    reader_writer_class: type,
    allowed: list[int],
    what: str,
) -> tuple[str, str]:
    """`(hash of the file, "")` or `("", what is wrong)`."""
    try:
        segmentation, _ = read_label_map(name, file, reader_writer_class)
        shape = None if like is None else read_label_map(name, like, reader_writer_class)[0].shape
    except UserError as error:
        return "", str(error)
    if found := other_codes(segmentation, allowed):
        return (
            "",
            f"{file}: holds {', '.join(found)}; allowed in a {what} are {allowed}. Correct the file or remove it.",
        )
    if shape is not None and segmentation.shape != shape:
        return "", f"{file}: shape {segmentation.shape}, but {like} has {shape}. Correct the file or remove it."
    return file_hash(file), ""
