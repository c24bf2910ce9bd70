"""The key `labels` of dataset.json: numbers of classes and regions, as nnU-Net understands them.

nnU-Net takes `1`, `"1"` and `[1]` for the same class, and regions are there as soon as one value is a list of two labels or more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_ssl.data.json_files import expect

HIGHEST = 32767  # nnU-Net keeps segmentations as int16
_NUMBER = f"a whole number from 0 to {HIGHEST}"


def other_codes(labels: np.ndarray, allowed: Collection[int]) -> list[str]:
    """The numbers of a label map that are not among the allowed ones, in their order, as text."""
    found = pd.unique(labels.ravel())  # does not sort the voxels, as np.unique does
    return [f"{code:g}" for code in sorted(found) if code not in allowed]


def label_values(dataset_json: Mapping, file: str | Path = "dataset.json") -> dict[str, int | list[int]]:
    """Name of each class -> its number; where there are regions, of each region -> its number or numbers.

    Args:
        file: what messages call the file.

    Raises:
        UserError: what nnU-Net would stop at, in a later command or in the training: no background, an
            ignore label that is not the last, regions without `regions_class_order`; and one number for two classes.
    """
    labels = dataset_json.get("labels")
    expect(
        isinstance(labels, dict) and bool(labels), file, "labels", labels, "an object that gives each class its number"
    )
    has_regions = any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())
    values = {name: _value(file, name, value, has_regions) for name, value in labels.items()}
    names = ", ".join(map(str, labels))
    expect("background" in labels, file, "labels", labels, 'an object that begins with "background": 0')
    expect(values["background"] == 0, file, "labels.background", labels["background"], "0")
    ignore = values.pop("ignore", None)
    numbers = sorted({code for value in values.values() for code in (value if isinstance(value, list) else [value])})
    if ignore is not None:
        found, allowed = labels["ignore"], f"{numbers[-1] + 1}, the number after the last label"
        expect(isinstance(found, int) and ignore == numbers[-1] + 1, file, "labels.ignore", found, allowed)
    if has_regions:
        regions = [value for value in values.values() if value not in (0, [0])]
        order = dataset_json.get("regions_class_order")
        allowed = f"a list of {len(regions)} labels, one for each region of {names}"
        whole = isinstance(order, list) and all(isinstance(o, int) and not isinstance(o, bool) for o in order)
        expect(whole and len(order) == len(regions), file, "regions_class_order", order, allowed)
    else:
        by_number: dict[int, str] = {}
        for name, value in values.items():
            other = by_number.setdefault(value, name)
            expect(other == name, file, f"labels.{name}", value, f"a number that '{other}' does not have")
    return values if ignore is None else {**values, "ignore": ignore}


def _value(file: str | Path, name: str, value: object, has_regions: bool) -> int | list[int]:
    """A number, or the numbers of a region."""
    key = f"labels.{name}"
    if isinstance(value, (list, tuple)):
        expect(name not in ("background", "ignore"), file, key, value, f"{_NUMBER}, not a list")
        expect(len(value) > 0, file, key, value, f"{_NUMBER} or a list of such")
        codes = [_number(file, key, code, has_regions) for code in value]
        return codes if has_regions else codes[0]
    return _number(file, key, value, has_regions)


def _number(file: str | Path, key: str, value: object, has_regions: bool) -> int:
    whole: object = value
    digits = isinstance(value, str) and value.strip().isdecimal() and len(value) < 9
    # with regions nnU-Net compares them with the voxels as they are
    if not has_regions and (digits or (isinstance(value, float) and value.is_integer())):
        whole = int(value)  # type: ignore[call-overload]
    fine = isinstance(whole, int) and not isinstance(whole, bool) and 0 <= whole <= HIGHEST
    expect(fine, file, key, value, _NUMBER)
    return int(whole)  # type: ignore[call-overload]
