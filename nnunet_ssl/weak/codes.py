"""What the label maps of a data set hold, as dataset.json says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError
from nnunet_ssl.weak.generate import BACKGROUND

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager


@dataclass(frozen=True)
class Codes:
    """The integers of the label maps of a data set."""

    names: Mapping[int, str]  # code -> for people; regions have no name for a single code
    ignore: int  # the code of what is not annotated; it is not among the names
    classes: Mapping[str, tuple[int, ...]]  # foreground class or region -> its codes
    has_regions: bool


def dense_codes(raw: RawDataset) -> Codes:
    """The codes of dense labels; `ignore` is the first free one.

    Raises:
        UserError: there is an ignore label or partial labels, or dataset.json does not describe the labels as nnU-Net does.
    """
    file, manager = _label_manager(raw)
    _refuse_partial_labels(raw, file, "Weaken a data set with dense labels.")
    if manager.has_ignore_label:
        raise UserError(
            f"{file} has the label 'ignore' ({manager.ignore_label}): these labels are not dense, and what is not annotated "
            "has no true class to draw from. Weaken a data set with dense labels."
        )
    return _codes(raw, manager, max(map(int, manager.all_labels)) + 1)


def sparse_codes(raw: RawDataset) -> Codes:
    """The codes of labels with an ignore label.

    Raises:
        UserError: there is no ignore label, there are partial labels, or dataset.json does not describe the labels as nnU-Net
            does.
    """
    file, manager = _label_manager(raw)
    _refuse_partial_labels(raw, file, "Expand a data set in which every class is annotated wherever a label is.")
    if not manager.has_ignore_label:
        raise UserError(
            f"the labels of {file} ({', '.join(raw.dataset_json['labels'])}) have no 'ignore', nnU-Net's name for what is not "
            "annotated, so there is nothing to expand. `nnunet_ssl convert` writes it for scribbles, `nnunet_ssl weaken` makes "
            "sparse labels from dense ones."
        )
    return _codes(raw, manager, int(manager.ignore_label))


def _refuse_partial_labels(raw: RawDataset, file: Path, instead: str) -> None:
    if PARTIAL_LABELS in raw.dataset_json:
        raise UserError(
            f"{file} has the key '{PARTIAL_LABELS}': a stored 0 means background or a class that the case does not annotate, so "
            f"it would be passed on as true background. {instead} If every case annotates everything, remove the key."
        )


def _label_manager(raw: RawDataset) -> tuple[Path, LabelManager]:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    file = raw.folder / "dataset.json"
    try:
        return file, LabelManager(raw.dataset_json["labels"], raw.dataset_json.get("regions_class_order"))
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: key 'labels' is not as nnU-Net needs it: {error}. Correct it.") from error


def _codes(raw: RawDataset, manager: LabelManager, ignore: int) -> Codes:
    classes = {}
    for name, value in raw.dataset_json["labels"].items():
        codes = tuple(value if isinstance(value, list) else [value])
        if codes not in ((BACKGROUND,), (ignore,)):
            classes[name] = codes
    single = {} if manager.has_regions else {codes[0]: name for name, codes in classes.items()}
    everything = [int(code) for code in manager.all_labels if int(code) != ignore]
    names = {code: "background" if code == BACKGROUND else single.get(code, f"code {code}") for code in everything}
    return Codes(names, ignore, classes, manager.has_regions)
