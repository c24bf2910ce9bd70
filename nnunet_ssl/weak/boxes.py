"""Bounding boxes of the components of a mask, and what a label map can say of them.

A box is `(start, stop)`: voxel indices per axis, the first inside and the first beyond. `boxes.json` of a data set holds those
of every case, because neighboring boxes merge in a label map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnunet_ssl.errors import UserError
from nnunet_ssl.weak.points import components

FILE_NAME = "boxes.json"
FORMAT = 1

Box = tuple[tuple[int, ...], tuple[int, ...]]


def tight_box(mask: np.ndarray, margin: Sequence[int] | int = 0) -> Box:
    """The smallest box around all of a mask that is not empty, wider by `margin` voxels (per axis) on each side, cut at the
    image border."""
    voxels = np.argwhere(mask)
    margin = np.broadcast_to(margin, mask.ndim)
    start = np.maximum(voxels.min(axis=0) - margin, 0)
    stop = np.minimum(voxels.max(axis=0) + 1 + margin, mask.shape)
    return tuple(start.tolist()), tuple(stop.tolist())


def component_boxes(mask: np.ndarray, margin: Sequence[int] | int = 0) -> list[Box]:
    """`tight_box` of every component; voxels that touch at a corner belong together."""
    boxes = []
    for box, _ in components(mask):
        margins = np.broadcast_to(margin, mask.ndim)
        start = tuple(max(0, side.start - int(m)) for side, m in zip(box, margins))
        stop = tuple(min(size, side.stop + int(m)) for side, m, size in zip(box, margins, mask.shape))
        boxes.append((start, stop))
    return boxes


def slice_boxes(mask: np.ndarray, margin: Sequence[int] | int = 0) -> list[Box]:
    """`component_boxes` of every slice along the first axis of a mask `(slices, rows, columns)`, one slice thick each."""
    boxes = []
    for index, part in enumerate(mask):
        for start, stop in component_boxes(part, margin):
            boxes.append(((index, *start), (index + 1, *stop)))
    return boxes


def filled_boxes(boxes: Iterable[Box], shape: Sequence[int]) -> np.ndarray:
    """The voxels of an image of this shape that lie in one of the boxes, a boolean array."""
    filled = np.zeros(shape, dtype=bool)
    for start, stop in boxes:
        filled[tuple(slice(first, last) for first, last in zip(start, stop))] = True
    return filled


def refuse_loose_boxes(dataset_json: Mapping, slice_axis: int | None, file: str) -> None:
    """Refuse boxes of which the record of `nnunet_ssl weaken` in dataset.json says that they are not tight in what is trained on.

    Args:
        slice_axis: across which the slices of a 2d configuration lie, in the order of nnU-Net's reader; None: volumes.
        file: where dataset.json is, for the message.

    Raises:
        UserError: boxes with a margin; for slices, boxes of volumes or of slices along another axis.
    """
    own = dataset_json.get("nnunet_ssl")
    record = own.get("weaken") if isinstance(own, dict) else None
    if not isinstance(record, dict) or record.get("kind") != "boxes":
        return
    found = []
    if margin := record.get("options", {}).get("margin"):
        found.append(f"--margin {margin:g}")
    if slice_axis is not None and record.get("rule") == "3d":
        found.append("--rule 3d, tight in volumes but not in the slices of a 2d configuration")
    elif slice_axis is not None and record.get("axis", slice_axis) != slice_axis:
        found.append(f"--axis {record['axis']}, while the slices of the 2d configuration lie along axis {slice_axis}")
    if found:
        rule = "" if slice_axis is None else f" --rule 2d --axis {slice_axis}"
        raise UserError(
            f"{file}: the boxes were made with {' and '.join(found)}, and the method needs tight ones. Make them with "
            f"`nnunet_ssl weaken -d {record.get('from', 'ID')} -o NEW_ID --kind boxes{rule} --margin 0`."
        )
